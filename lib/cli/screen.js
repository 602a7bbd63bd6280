"use strict";

// A stream that a person may look at.

const { clip } = require("./text");

const DEFAULT_COLUMNS = 80;

class Screen {
  #stream;
  #env;
  /** How many lines can be drawn over. */
  #drawn = 0;

  constructor(stream, env) {
    this.#stream = stream;
    this.#env = env;
  }

  /** Whether lines can be drawn over. */
  get isLive() {
    return this.#stream.isTTY === true && this.#env.TERM !== "dumb";
  }

  /** One less than there are: a character in the last column makes some terminals wrap. */
  get columns() {
    return this.#stream.columns > 0 ? this.#stream.columns - 1 : DEFAULT_COLUMNS;
  }

  print(...lines) {
    this.#stream.write(lines.map((line) => `${line}\n`).join(""));
  }

  /** Replaces what was drawn before. */
  draw(lines) {
    const room = this.#stream.rows > 1 ? this.#stream.rows - 1 : lines.length;
    const shown = lines.length > room ? [...lines.slice(0, room - 1), "…"] : lines;
    this.#stream.write(this.#erasure() + shown.map((line) => clip(line, this.columns)).join("\n"));
    this.#drawn = shown.length;
  }

  erase() {
    this.#stream.write(this.#erasure());
    this.#drawn = 0;
  }

  /** Leaves what was drawn, and goes on below it. */
  keep() {
    if (this.#drawn > 0) this.#stream.write("\n");
    this.#drawn = 0;
  }

  #erasure() {
    if (this.#drawn === 0) return "";
    return this.#drawn > 1 ? `\r\x1b[${this.#drawn - 1}A\x1b[J` : "\r\x1b[K";
  }
}

module.exports = { Screen };
