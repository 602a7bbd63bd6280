"use strict";

// Counts of requests and tokens in few characters.

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** All tokens, of questions and answers. */
function tokens({ inputTokens, outputTokens }) {
  return compact.format(inputTokens + outputTokens);
}

/** The share of the input that came from a cache; empty where there was no input. */
function cachedShare({ inputTokens, cachedTokens }) {
  return inputTokens > 0 ? `${Math.floor((100 * cachedTokens) / inputTokens)} %` : "";
}

module.exports = { cachedShare, compact, tokens };
