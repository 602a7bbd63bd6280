"use strict";

// Describes the accounts and their usage for OpenCode's toasts.

const { cachedShare, estimateOf, tokens } = require("./cli/figures");
const { planOf } = require("./cli/plans");
const { clean } = require("./cli/text");
const { duration } = require("./cli/time");

/**
 * Returns a few short lines for each account: a toast is about fifty characters wide.
 *
 * @param {object[]} accounts as `overview` gives them
 * @param {string[]} [elsewhere] lines about keys that other tools keep, for a user without an account
 */
function describe(accounts, now, elsewhere = []) {
  if (accounts.length === 0) {
    return ["There is no account. Log in with `opencode auth login`.", ...elsewhere].join("\n");
  }
  return accounts.flatMap((account) => linesOf(account, now)).join("\n");
}

function linesOf(account, now) {
  const { id, label, active, usage } = account;
  const plan = account.kind === "api-key" ? ` (${planOf(account)})` : "";
  const head = `${active ? "* " : ""}${clean(label || id)}${plan}: ${stateInWords(account, now)}`;
  if (usage === undefined) return [head];
  const estimate = estimateOf({ estimates: usage.estimates?.slice(0, 1) });
  return [
    head,
    `today ${inWords(usage.today)}`,
    `last 5 h ${inWords(usage.fiveHours)}`,
    ...(estimate === "" ? [] : [estimate]),
  ];
}

function stateInWords({ enabled, state, coolingUntil, quotaWindow }, now) {
  if (enabled === false) return "disabled";
  if (state !== "cooling" || !(coolingUntil > now)) return state;
  const window = quotaWindow === undefined ? "" : `${clean(quotaWindow)} quota used up, `;
  return `${window}free again in ${duration(coolingUntil - now)}`;
}

function inWords(counts) {
  const share = cachedShare(counts);
  const noun = counts.requests === 1 ? "request" : "requests";
  return `${counts.requests} ${noun}, ${tokens(counts)} tokens${share && `, ${share} cached`}`;
}

module.exports = { describe };
