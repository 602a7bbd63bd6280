"use strict";

// Errors of the command line.

/** An error for wrong arguments. */
class UsageError extends Error {
  /** @param {string} [command] the command with the wrong arguments */
  constructor(message, command) {
    super(message);
    this.command = command;
  }
}

/** Creates an error of the command line, with one of the package's codes. */
function failure(code, message) {
  return Object.assign(new Error(message), { code, retryable: false });
}

/** Returns all fields of an error, for JSON. */
function describe(error) {
  const { name: _, code = "ERR_QWEN_INTERNAL", ...fields } = error;
  const cause = error.cause instanceof Error ? { cause: describe(error.cause) } : {};
  return { code, message: error.message, ...fields, ...cause };
}

module.exports = { UsageError, describe, failure };
