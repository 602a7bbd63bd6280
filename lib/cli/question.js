"use strict";

// Asks a question on a terminal.

const { createInterface } = require("node:readline");

/** Returns true if a person can answer. */
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
    // In raw mode Ctrl-C sends no signal.
    reader.once("SIGINT", () => process.kill(process.pid, "SIGINT"));
    reader.once("close", () => resolve(""));
    reader.question(question, resolve);
  }).finally(() => {
    ended.abort();
    reader.close();
  });
}

module.exports = { ask, canAsk };
