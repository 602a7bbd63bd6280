"use strict";

// Text for terminals: removes control sequences and measures the width in cells.

// Control characters (C0, DEL, C1), and characters that reorder or break a line.
const UNSAFE = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;
/** The subset that JSON.stringify doesn't escape. */
const UNSAFE_IN_JSON = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]/u;
const EMOJI = /\p{Emoji_Presentation}|\p{Extended_Pictographic}\ufe0f/u;
const INVISIBLE = /^[\p{M}\p{Cf}]+$/u;

const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });
const graphemes = (text) => Array.from(segmenter.segment(text), ({ segment }) => segment);

/** Makes one harmless line of text from outside, such as a label or a server's message. */
function clean(text) {
  return String(text)
    .replace(/[\r\n]+/g, " ")
    .replace(UNSAFE, "\ufffd");
}

/** Longest argument that an error repeats, in characters. Keys and tokens are longer. */
const LONGEST_REPEATED = 12;

/** Quotes an argument for an error, after a space. Empty for a long argument, which may be a secret. */
function quotedWord(text) {
  return text.length <= LONGEST_REPEATED ? ` "${clean(text)}"` : "";
}

function json(value, indent) {
  const escape = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value, null, indent).replace(UNSAFE_IN_JSON, escape);
}

function cells(grapheme) {
  if (INVISIBLE.test(grapheme)) return 0;
  return WIDE.test(grapheme) || EMOJI.test(grapheme) ? 2 : 1;
}

/** Returns the width of a text in cells. */
function width(text) {
  return graphemes(text).reduce((sum, grapheme) => sum + cells(grapheme), 0);
}

/** Cuts a text to a width in cells, and marks the cut. */
function clip(text, limit) {
  if (width(text) <= limit) return text;
  let result = "";
  let used = 1;
  for (const grapheme of graphemes(text)) {
    used += cells(grapheme);
    if (used > limit) break;
    result += grapheme;
  }
  return limit > 0 ? `${result}…` : "";
}

/** Cuts or pads a text to exactly `limit` cells. */
function pad(text, limit) {
  const clipped = clip(text, limit);
  return clipped + " ".repeat(limit - width(clipped));
}

/** Aligns the cells of rows. */
function columns(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => width(row[column]))));
  const line = (row) => row.map((cell, column) => pad(cell, widths[column])).join("  ");
  return rows.map((row) => line(row).trimEnd());
}

module.exports = { clean, clip, columns, json, quotedWord, width };
