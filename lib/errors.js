"use strict";

/** The error of every rejection: see `QwenAuthError` in index.d.ts. */
class QwenAuthError extends Error {
  /** @param {{code: string, message: string, cause?: unknown}} fields what the native core reports, or a part of it */
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

/** A caller's mistake, naming the field. */
function invalidArgument(field, expected, cause) {
  return new QwenAuthError({
    code: "ERR_QWEN_INVALID_ARGUMENT",
    message: `${field} ${expected}.`,
    retryable: false,
    cause,
  });
}

/** What the binding itself throws is a missing addon, or a defect. */
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
