"use strict";

// Colours for terminals.

/** @typedef {Record<"bold" | "dim" | "red" | "green" | "yellow", (text: string) => string>} Style */

const CODES = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] };

/**
 * @param {(on: number, off: number) => (text: string) => string} paint
 * @returns {Style}
 */
function make(paint) {
  // @ts-expect-error -- the compiler forgets the names of the entries
  return Object.fromEntries(Object.entries(CODES).map(([name, codes]) => [name, paint(...codes)]));
}

const PLAIN = make(() => (text) => text);
const COLOURED = make((on, off) => (text) => `\x1b[${on}m${text}\x1b[${off}m`);

module.exports = { COLOURED, PLAIN };
