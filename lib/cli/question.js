"use strict";

// A question to a person on a terminal.

const { createInterface } = require("node:readline");

/** True where there is a person to answer. */
function canAsk(input = process.stdin, output = process.stderr) {
  return input.isTTY === true && output.isTTY === true;
}

/**
 * @param {AbortSignal} signal
 * @returns {Promise<string>} the answer; empty at the end of the input
 */
function ask(question, signal, input = process.stdin, output = process.stderr) {
  const reader = createInterface({ input, output });
  const ended = new AbortController();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { signal: ended.signal });
    // In raw mode Ctrl-C is a key like any other.
    reader.once("SIGINT", () => process.kill(process.pid, "SIGINT"));
    reader.once("close", () => resolve(""));
    reader.question(question, resolve);
  }).finally(() => {
    ended.abort();
    reader.close();
  });
}

module.exports = { ask, canAsk };
