"use strict";

const { shown } = require("../naming");
const { clean } = require("../text");

async function run({ client, operand }) {
  const imported = await client.importAccounts(operand);
  return { value: imported, lines: describe(imported, clean(operand)) };
}

function describe(imported, file) {
  if (imported.length === 0) return [`Nothing new: every account in ${file} is known already.`];
  return [
    ...imported.map((account) => `Imported ${shown(account)}.`),
    "A login can be refreshed by one program alone. Take the plugin that wrote this file out of opencode.json, and",
    "start no other program with this login: whichever refreshes it first logs the others out.",
  ];
}

module.exports = {
  summary: "add the accounts in a file of another Qwen plugin, the qwen CLI or OpenCode",
  operand: "<file>",
  options: {},
  run,
};
