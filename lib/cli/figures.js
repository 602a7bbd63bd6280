"use strict";

// Formats counts of requests and tokens in few characters.

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** Formats the sum of input and output tokens. */
function tokens({ inputTokens, outputTokens }) {
  return compact.format(inputTokens + outputTokens);
}

/** Formats the share of cached input. Empty without input. */
function cachedShare({ inputTokens, cachedTokens }) {
  return inputTokens > 0 ? `${Math.floor((100 * cachedTokens) / inputTokens)} %` : "";
}

const WINDOWS = { "5-hour": "5 h", weekly: "the week", monthly: "30 days" };

/**
 * Returns text such as "about 62 % of 5 h used, 9 % of the week (estimate from this machine's use)". Empty without known
 * limits.
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
