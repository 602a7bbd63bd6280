"use strict";

// How the accounts stand and what they have given, for OpenCode's toasts.

const { duration } = require("./cli/time");
const { clean } = require("./cli/text");

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** A few short lines an account: a toast is some fifty characters wide. */
function describe(accounts, usages, now) {
  if (accounts.length === 0) return "There is no account. Log in with `opencode auth login`.";
  const figures = new Map(usages.map((usage) => [usage.accountId, usage]));
  return accounts.flatMap((account) => linesOf(account, figures.get(account.id), now)).join("\n");
}

function linesOf({ id, label, active, state, coolingUntil }, usage, now) {
  const isCooling = state === "cooling" && coolingUntil > now;
  const standing = isCooling ? `free again in ${duration(coolingUntil - now)}` : state;
  const head = `${active ? "* " : ""}${clean(label || id)}: ${standing}`;
  if (usage === undefined) return [head];
  return [head, `today ${counts(usage.today)}`, `last 5 h ${counts(usage.fiveHours)}`];
}

function counts({ requests, inputTokens, cachedTokens, outputTokens }) {
  const cached = inputTokens > 0 ? `, ${Math.floor((100 * cachedTokens) / inputTokens)} % cached` : "";
  const noun = requests === 1 ? "request" : "requests";
  return `${requests} ${noun}, ${compact.format(inputTokens + outputTokens)} tokens${cached}`;
}

module.exports = { describe };
