"use strict";

const { accountsTable } = require("../table");
const { watch } = require("../watch");

async function run(context) {
  const { client, options, screen } = context;
  if (options.watch) return watch(context);
  const accounts = await client.accounts();
  return {
    value: accounts,
    lines: accountsTable(accounts, { columns: screen.columns, now: Date.now() }),
  };
}

module.exports = {
  summary: "list the accounts; the active one has a *",
  options: {
    watch: { type: "boolean", summary: "keep the list up to date until Ctrl-C" },
  },
  run,
};
