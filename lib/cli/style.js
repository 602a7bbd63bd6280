"use strict";

// Colours, where they are wanted.

/** @typedef {Record<"bold" | "dim" | "red" | "green" | "yellow", (text: string) => string>} Style */

const CODES = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] };

function make(paint) {
  return Object.fromEntries(Object.entries(CODES).map(([name, codes]) => [name, paint(...codes)]));
}

/** @type {Style} */
const PLAIN = make(() => (text) => text);
/** @type {Style} */
const COLOURED = make((on, off) => (text) => `\x1b[${on}m${text}\x1b[${off}m`);

module.exports = { COLOURED, PLAIN };
