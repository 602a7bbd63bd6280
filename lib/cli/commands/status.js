"use strict";

const { dirname } = require("node:path");
const { version } = require("../../../package.json");
const { LOG_IN, shown } = require("../naming");
const { elsewhere } = require("../found-keys");
const { planOf } = require("../plans");
const { overview } = require("../overview");
const { accountsTable } = require("../table");
const { clean } = require("../text");
const { distance, timeOfDay } = require("../time");

async function run({ client, notes, screen }) {
  const accounts = await overview(client, notes);
  const now = Date.now();
  const activeAccount = accounts.find(({ active }) => active) ?? null;
  const enabled = accounts.filter((account) => account.enabled);
  const inState = (state) => enabled.filter((account) => account.state === state).length;
  const disabled = accounts.length - enabled.length;
  const value = {
    activeAccount,
    token: tokenOf(activeAccount, now),
    accounts: {
      total: accounts.length,
      ready: inState("ready"),
      cooling: inState("cooling"),
      needsLogin: inState("needs-login"),
      ...(disabled > 0 && { disabled }),
    },
    directory: dirname(client.accountFiles[0]),
    // Here the notes are part of the output.
    notes: notes.splice(0),
    versions: { package: version, node: process.versions.node },
  };
  const keys = await elsewhere(client);
  // Notes about files that this search left out don't belong to the status.
  notes.length = 0;
  const table = accountsTable(accounts, { columns: screen.columns, now, style: screen.style });
  return { value, lines: [...describe(value, keys, now), ...(accounts.length > 0 ? ["", ...table] : [])] };
}

function tokenOf(account, now) {
  if (account?.expiresAt === undefined) return null;
  return { valid: account.expiresAt > now, expiresAt: account.expiresAt };
}

function describe({ activeAccount, token, accounts, directory, notes, versions }, keys, now) {
  const { total, ready, cooling, needsLogin, disabled = 0 } = accounts;
  const unused = disabled > 0 ? `, ${disabled} disabled` : "";
  const rows = [
    ...(activeAccount === null ? [["Account", `none. ${LOG_IN}`]] : describeAccount(activeAccount, now)),
    ...(token === null ? [] : [["Token", describeToken(token, now)]]),
    ["Accounts", `${total}: ${ready} ready, ${cooling} cooling, ${needsLogin} in need of a login${unused}`],
    ...keys.map((line) => ["Keys", line]),
    ["Files", clean(directory)],
    ...notes.map((note) => ["Note", clean(note)]),
    ["Versions", `opencode-qwen-cli-auth ${versions.package}, Node.js ${versions.node}`],
  ];
  return rows.map(([name, text]) => `${name.padEnd(10)}${text}`);
}

function describeAccount(account, now) {
  const { kind, enabled, state, coolingUntil, quotaWindow, baseUrl, lastError } = account;
  const until = state === "cooling" && coolingUntil ? `, free at ${timeOfDay(coolingUntil, now)}` : "";
  const window = quotaWindow === undefined ? "" : `, ${clean(quotaWindow)} quota used up`;
  return [
    ["Account", `${shown(account)}, ${enabled ? clean(state) + window + until : "disabled"}`],
    ...(kind === "api-key" ? [["Plan", planOf(account)]] : []),
    ["API", clean(baseUrl)],
    ...(lastError ? [["Error", `${clean(lastError.message)} (${distance(lastError.at, now)})`]] : []),
  ];
}

function describeToken({ valid, expiresAt }, now) {
  const when = distance(expiresAt, now);
  return valid ? `valid, expires ${when}` : `expired ${when}; the next request refreshes it`;
}

module.exports = {
  summary: "show the active account, its token, files and versions",
  options: {},
  run,
};
