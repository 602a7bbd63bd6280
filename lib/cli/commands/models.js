"use strict";

const { LOG_IN } = require("../naming");
const { clean, columns } = require("../text");

const HEADINGS = ["MODEL", "CONTEXT", "OUTPUT", "INPUT", "THINKING", "ACCOUNTS"];

async function run({ client, options, screen }) {
  const models = await client.models({ refresh: options.refresh ?? false });
  const accounts = await client.accounts();
  return { value: models, lines: table(models, accounts, screen.style) };
}

function table(models, accounts, style) {
  if (models.length === 0) {
    return ["No models of the accounts are known. `models --refresh` asks their servers."];
  }
  const missing = accounts.length === 0 ? [`There is no account. ${LOG_IN}`] : [];
  const labels = new Map(accounts.map(({ id, label }) => [id, label]));
  const rows = models.map(({ id, context, output, input, thinking, accounts: ids }) => [
    clean(id),
    thousands(context),
    thousands(output),
    input.join(", "),
    levels(thinking),
    clean(ids.map((account) => labels.get(account) ?? account).join(", ")),
  ]);
  const [headings, ...lines] = columns([HEADINGS, ...rows]);
  return [style.bold(headings), ...lines, ...missing];
}

/** 1,000,000 as 1M, 65,536 as 66k. */
function thousands(tokens) {
  return tokens >= 1_000_000 ? `${Math.round(tokens / 100_000) / 10}M` : `${Math.round(tokens / 1000)}k`;
}

function levels(thinking) {
  if (thinking === undefined) return "";
  const { toggle = false, efforts = [], mandatory = false } = thinking;
  const choices = [...(toggle && !mandatory ? ["on/off"] : []), ...efforts];
  return choices.length > 0 ? choices.join(", ") : "always";
}

module.exports = {
  summary: "list the models of the accounts",
  options: {
    refresh: { type: "boolean", summary: "ask the servers for their lists first" },
  },
  run,
};
