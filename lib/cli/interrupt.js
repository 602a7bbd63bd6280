"use strict";

// Handles signals and broken pipes.

const { constants } = require("node:os");

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"];

/**
 * Turns signals and broken pipes into an abort, so that the command in progress can clean up. A second signal of the same
 * kind ends the process at once.
 */
class Interrupt {
  #controller = new AbortController();
  /** The exit code after a signal or a broken pipe, otherwise `undefined`. */
  exitCode;

  constructor(streams) {
    for (const name of SIGNALS) process.once(name, this.#onSignal);
    for (const stream of streams) stream.on("error", this.#onBrokenPipe);
  }

  get signal() {
    return this.#controller.signal;
  }

  get isBySignal() {
    return this.exitCode > 128;
  }

  /** Restores the default effect of the signals. */
  release() {
    for (const name of SIGNALS) process.removeListener(name, this.#onSignal);
  }

  #onSignal = (name) => this.#end(128 + constants.signals[name]);

  // No message: the reader of the output is gone.
  #onBrokenPipe = () => this.#end(1);

  #end(exitCode) {
    this.exitCode ??= exitCode;
    this.#controller.abort();
  }
}

module.exports = { Interrupt };
