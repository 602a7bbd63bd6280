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

const WINDOWS = { "5-hour": "5 h", weekly: "the week", monthly: "30 days" };

/**
 * Such as "about 62 % of 5 h used, 9 % of the week (estimate from this machine's use)"; empty without known limits.
 *
 * @param {{ estimates?: { window: string, percent: number }[] }} [usage]
 */
function estimateOf(usage) {
  const [first, ...rest] = (usage?.estimates ?? []).map(
    ({ window, percent }) => `${percent} % of ${WINDOWS[window] ?? window}`,
  );
  if (first === undefined) return "";
  return `${[`about ${first} used`, ...rest].join(", ")} (estimate from this machine's use)`;
}

module.exports = { cachedShare, compact, estimateOf, tokens };
