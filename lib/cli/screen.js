"use strict";

// Writes to a stream that may be a terminal.

const { COLOURED, PLAIN } = require("./style");
const { clip } = require("./text");

const DEFAULT_COLUMNS = 80;
const HIDE_CURSOR = "\x1b[?25l";
const SHOW_CURSOR = "\x1b[?25h";

class Screen {
  #stream;
  #env;
  /** The lines of the last `draw`, which the next one replaces. */
  #drawn = [];

  constructor(stream, env) {
    this.#stream = stream;
    this.#env = env;
  }

  /** True if lines can be replaced. */
  get isLive() {
    return this.#stream.isTTY === true && this.#env.TERM !== "dumb";
  }

  /** Colours if the terminal has them and NO_COLOR is not set. */
  get style() {
    const isPlain = !this.isLive || this.#env.NO_COLOR || !this.#stream.hasColors?.(this.#env);
    return isPlain ? PLAIN : COLOURED;
  }

  /** Usable columns. The last one is left empty, since some terminals wrap after it. */
  get columns() {
    return this.#stream.columns > 0 ? this.#stream.columns - 1 : DEFAULT_COLUMNS;
  }

  print(...lines) {
    this.#stream.write(lines.map((line) => `${line}\n`).join(""));
  }

  /** Replaces the last drawn lines one by one. Clearing the screen first would flicker. */
  draw(lines) {
    const room = this.#stream.rows > 1 ? this.#stream.rows - 1 : lines.length;
    const fitting = lines.length > room ? [...lines.slice(0, room - 1), "…"] : lines;
    // Coloured lines already fit.
    const shown = fitting.map((line) => (line.includes("\x1b") ? line : clip(line, this.columns)));
    if (shown.length === this.#drawn.length && shown.every((line, at) => line === this.#drawn[at])) return;
    this.#stream.write(`${this.#toTop()}${shown.map((line) => `${line}\x1b[K`).join("\n")}\x1b[J`);
    this.#drawn = shown;
  }

  erase() {
    if (this.#drawn.length > 0) this.#stream.write(`${this.#toTop()}\x1b[J`);
    this.#drawn = [];
  }

  /** Keeps the drawn lines and continues below them. */
  keep() {
    if (this.#drawn.length > 0) this.#stream.write("\n");
    this.#drawn = [];
  }

  /** Hides the terminal's cursor until the returned function is called or the process ends. */
  hideCursor() {
    if (!this.isLive) return () => {};
    const show = () => {
      process.removeListener("exit", show);
      this.#stream.write(SHOW_CURSOR);
    };
    process.once("exit", show);
    this.#stream.write(HIDE_CURSOR);
    return show;
  }

  #toTop() {
    return this.#drawn.length > 1 ? `\r\x1b[${this.#drawn.length - 1}A` : "\r";
  }
}

module.exports = { Screen };
