"use strict";

/**
 * Fields of an error as the native core reports them.
 *
 * @typedef {{code: string, message: string, cause?: any, [field: string]: unknown}} Fields
 */

/** See `QwenAuthError` in index.d.ts. */
class QwenAuthError extends Error {
  /** @param {Fields} fields */
  constructor({ message, cause, ...fields }) {
    super(message);
    this.name = "QwenAuthError";
    Object.assign(this, fields);
    if (cause !== undefined) {
      const nested = cause instanceof Error || typeof cause !== "object" ? cause : new QwenAuthError(cause);
      Object.defineProperty(this, "cause", { value: nested, writable: true, configurable: true });
    }
  }
}

/** An error about an argument, which names the field. */
function invalidArgument(field, expected, cause) {
  return new QwenAuthError({
    code: "ERR_QWEN_INVALID_ARGUMENT",
    message: `${field} ${expected}.`,
    retryable: false,
    cause,
  });
}

/** Turns an error of the binding into a `QwenAuthError`: a missing addon, or a bug. */
function fromBinding(error) {
  if (error instanceof QwenAuthError) return error;
  const code = error?.code === "ERR_QWEN_NATIVE_BINDING" ? error.code : "ERR_QWEN_INTERNAL";
  const message =
    code === "ERR_QWEN_INTERNAL"
      ? `Internal error in opencode-qwen-cli-auth: ${error?.message}. Please report it.`
      : error.message;
  return new QwenAuthError({ code, message, retryable: false });
}

module.exports = { QwenAuthError, invalidArgument, fromBinding };
