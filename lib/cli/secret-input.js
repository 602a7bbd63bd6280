"use strict";

// Reads a secret from a hidden prompt or from standard input.

const { createInterface } = require("node:readline");
const { Writable } = require("node:stream");
const { failure } = require("./failure");

/** Far longer than any key. */
const MAX_LENGTH = 64 * 1024;

/**
 * @param {import("./screen").Screen} screen shows the question on a terminal
 * @returns {Promise<string>} the typed line, or all of standard input
 */
async function readSecret(question, screen, signal, input = process.stdin) {
  return input.isTTY ? ask(question, screen, signal, input) : readAll(input, signal);
}

/** Reads a line with the usual editing keys, and shows nothing of it. */
function ask(question, screen, signal, input) {
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const reader = createInterface({ input, output: nowhere, terminal: true });
  screen.draw([question]);
  const ended = new AbortController();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { signal: ended.signal });
    // In raw mode Ctrl-C sends no signal.
    reader.once("SIGINT", () => process.kill(process.pid, "SIGINT"));
    reader.once("line", resolve);
    // After Ctrl-D, or if the terminal is gone.
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
  return failure("ERR_QWEN_INVALID_ARGUMENT", "Standard input is too long to be a key.");
}

module.exports = { readSecret };
