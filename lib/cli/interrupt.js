"use strict";

// What ends a command from outside.

const { constants } = require("node:os");

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"];

/**
 * Turns signals, and a reader that went away, into an abort: whatever is under way can then end as it should. The second
 * signal of a kind ends the process at once.
 */
class Interrupt {
  #controller = new AbortController();
  /** What to exit with; `undefined` as long as nothing happened. */
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

  /** From now on, signals do what they usually do. */
  release() {
    for (const name of SIGNALS) process.removeListener(name, this.#onSignal);
  }

  #onSignal = (name) => this.#end(128 + constants.signals[name]);

  // Nobody is left to tell.
  #onBrokenPipe = () => this.#end(1);

  #end(exitCode) {
    this.exitCode ??= exitCode;
    this.#controller.abort();
  }
}

module.exports = { Interrupt };
