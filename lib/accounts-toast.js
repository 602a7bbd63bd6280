"use strict";

// How the accounts stand and what they have given, for OpenCode's toasts.

const { cachedShare, tokens } = require("./cli/figures");
const { clean } = require("./cli/text");
const { duration } = require("./cli/time");

/**
 * A few short lines an account: a toast is some fifty characters wide.
 *
 * @param {object[]} accounts as `overview` gives them
 */
function describe(accounts, now) {
  if (accounts.length === 0) return "There is no account. Log in with `opencode auth login`.";
  return accounts.flatMap((account) => linesOf(account, now)).join("\n");
}

function linesOf({ id, label, active, state, coolingUntil, usage }, now) {
  const isCooling = state === "cooling" && coolingUntil > now;
  const standing = isCooling ? `free again in ${duration(coolingUntil - now)}` : state;
  const head = `${active ? "* " : ""}${clean(label || id)}: ${standing}`;
  if (usage === undefined) return [head];
  return [head, `today ${inWords(usage.today)}`, `last 5 h ${inWords(usage.fiveHours)}`];
}

function inWords(counts) {
  const share = cachedShare(counts);
  const noun = counts.requests === 1 ? "request" : "requests";
  return `${counts.requests} ${noun}, ${tokens(counts)} tokens${share && `, ${share} cached`}`;
}

module.exports = { describe };
