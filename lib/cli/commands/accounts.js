"use strict";

const { elsewhere } = require("../found-keys");
const { overview } = require("../overview");
const { accountsTable } = require("../table");
const { watch } = require("../watch");

async function run(context) {
  const { client, notes, options, screen } = context;
  if (options.watch) return watch(context);
  const accounts = await overview(client, notes);
  const lines = accountsTable(accounts, { columns: screen.columns, now: Date.now(), style: screen.style });
  if (accounts.length > 0) return { value: accounts, lines };
  return { value: accounts, lines: [...lines, ...(await elsewhere(client))] };
}

module.exports = {
  summary: "list the accounts and their usage; the active one has a *",
  options: {
    watch: { type: "boolean", summary: "keep the list up to date until Ctrl-C" },
  },
  run,
};
