"use strict";

const { overview } = require("../overview");
const { accountsTable } = require("../table");
const { watch } = require("../watch");

async function run(context) {
  const { client, notes, options, screen } = context;
  if (options.watch) return watch(context);
  const accounts = await overview(client, notes);
  return {
    value: accounts,
    lines: accountsTable(accounts, { columns: screen.columns, now: Date.now(), style: screen.style }),
  };
}

module.exports = {
  summary: "list the accounts and what each has given; the active one has a *",
  options: {
    watch: { type: "boolean", summary: "keep the list up to date until Ctrl-C" },
  },
  run,
};
