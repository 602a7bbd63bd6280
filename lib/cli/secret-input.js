"use strict";

// A secret from a person who types or pastes it unseen, or from another program by standard input.

const { createInterface } = require("node:readline");
const { Writable } = require("node:stream");
const { failure } = require("./failure");

/** No key is anywhere near this long. */
const MAX_LENGTH = 64 * 1024;

/**
 * @param {import("./screen").Screen} screen where the question is shown, if a person is asked
 * @returns {Promise<string>} what was typed, or all that came
 */
async function readSecret(question, screen, signal, input = process.stdin) {
  return input.isTTY ? ask(question, screen, signal, input) : readAll(input, signal);
}

/** The line is edited as usual; what would be shown of it goes nowhere. */
function ask(question, screen, signal, input) {
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const reader = createInterface({ input, output: nowhere, terminal: true });
  screen.draw([question]);
  const ended = new AbortController();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { signal: ended.signal });
    // In raw mode Ctrl-C is a key like any other.
    reader.once("SIGINT", () => process.kill(process.pid, "SIGINT"));
    reader.once("line", resolve);
    // Ctrl-D, or a terminal that is gone.
    reader.once("close", () => resolve(""));
  }).finally(() => {
    ended.abort();
    reader.close();
    screen.keep();
  });
}

async function readAll(input, signal) {
  const chunks = [];
  let length = 0;
  const stop = () => input.destroy();
  signal.addEventListener("abort", stop, { once: true });
  try {
    for await (const chunk of input) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > MAX_LENGTH) throw tooLong();
    }
  } finally {
    signal.removeEventListener("abort", stop);
  }
  signal.throwIfAborted();
  return Buffer.concat(chunks).toString("utf8");
}

function tooLong() {
  return failure("ERR_QWEN_INVALID_ARGUMENT", "What came by standard input is too long to be a key.");
}

module.exports = { readSecret };
