"use strict";

// Errors as the command line says them.

/** The arguments make no sense. */
class UsageError extends Error {
  /** @param {string} [command] the command that they were for */
  constructor(message, command) {
    super(message);
    this.command = command;
  }
}

/** A failure of the command line's own, with one of the package's codes. */
function failure(code, message) {
  return Object.assign(new Error(message), { code, retryable: false });
}

/** An error as JSON: all fields that it has. */
function describe(error) {
  const { name: _, code = "ERR_QWEN_INTERNAL", ...fields } = error;
  const cause = error.cause instanceof Error ? { cause: describe(error.cause) } : {};
  return { code, message: error.message, ...fields, ...cause };
}

module.exports = { UsageError, describe, failure };
