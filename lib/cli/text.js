"use strict";

// Text on a terminal: nothing in it may steer the terminal, and its width is counted in cells.

// What a terminal obeys (C0, DEL, C1), and what turns the order of a line around or breaks it.
const UNSAFE = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;
/** Of those, what JSON does not escape by itself. */
const UNSAFE_IN_JSON = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]/u;
const EMOJI = /\p{Emoji_Presentation}|\p{Extended_Pictographic}\ufe0f/u;
const INVISIBLE = /^[\p{M}\p{Cf}]+$/u;

const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });
const graphemes = (text) => Array.from(segmenter.segment(text), ({ segment }) => segment);

/** Text from elsewhere (a label, a server's message) as one harmless line. */
function clean(text) {
  return String(text)
    .replace(/[\r\n]+/g, " ")
    .replace(UNSAFE, "\ufffd");
}

/** Keys and tokens are longer than a name that is repeated in an error. */
const LONGEST_REPEATED = 12;

/** An argument as an error repeats it, with a space in front; empty for a long one, which may be a secret. */
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

/** How many cells a text takes. */
function width(text) {
  return graphemes(text).reduce((sum, grapheme) => sum + cells(grapheme), 0);
}

/** As much of a text as fits, with a mark where something is missing. */
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

/** A text of exactly so many cells. */
function pad(text, limit) {
  const clipped = clip(text, limit);
  return clipped + " ".repeat(limit - width(clipped));
}

module.exports = { clean, clip, json, pad, quotedWord, width };
