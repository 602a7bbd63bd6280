"use strict";

const { choose, list } = require("../found-keys");
const { shown } = require("../naming");
const { canAsk } = require("../question");
const { clean } = require("../text");

const FAILED = 1;
const WRONG_USAGE = 2;

async function run(context) {
  const { client, operand, options } = context;
  if (operand === undefined) return importFound(context);
  if (options["dry-run"]) return preview(await client.previewImport(operand), clean(operand));
  const imported = await client.importAccounts(operand);
  return {
    value: imported,
    lines: [...describe(imported, clean(operand)), ...prices(imported)],
  };
}

/** Lists what an import of a file would take. */
function preview(found, file) {
  const value = found.map(({ credential }) => credential);
  const isNew = value.some(({ known }) => !known);
  return {
    value,
    lines: [...list(found, `Accounts and keys in ${file}:`), ...(isNew ? [] : ["Nothing is new."])],
  };
}

/** Says which of the imported accounts costs money by use now. */
function prices(imported) {
  const active = imported.filter((account) => account.active && account.billedByUse);
  return active.map((account) => `${shown(account)} is the active account; its requests are billed by use.`);
}

function describe(imported, file) {
  if (imported.length === 0) return [`Nothing new: every account in ${file} is known already.`];
  const lines = imported.map((account) => `Imported ${shown(account)}.`);
  if (imported.every(({ kind }) => kind === "api-key")) return lines;
  return [
    ...lines,
    "Only one program can refresh a login. Remove the plugin that wrote this file from opencode.json, and use this login",
    "in no other program: the first program that refreshes it logs the others out.",
  ];
}

/** Imports the keys that other tools keep. */
async function importFound({ client, options, signal, prompt, tellNotes }) {
  const found = await client.foundKeys();
  const value = found.map(({ credential }) => credential);
  const fresh = found.filter(({ credential }) => !credential.known);
  if (options["dry-run"]) return { value, lines: list(found) };
  if (fresh.length === 0) return { value: [], lines: [...list(found), "Nothing new was found."] };
  if (options.yes)
    return importChosen(
      client,
      fresh.filter(({ takenWithAll }) => takenWithAll),
      fresh,
    );
  if (!canAsk()) {
    const advice = "Nothing was imported. To import: --yes takes all, --dry-run only lists them.";
    return { value, lines: [...list(found), advice], exitCode: WRONG_USAGE };
  }
  tellNotes();
  prompt.print(...list(found));
  return importChosen(client, await choose(fresh, signal), []);
}

/** @param {object[]} all the keys that were offered, to say which were left out */
async function importChosen(client, chosen, all) {
  const results = chosen.length === 0 ? [] : await client.importFound(chosen.map(({ id }) => id));
  const accounts = results.flatMap(({ account }) => account ?? []);
  const lines = results.map(lineOf);
  for (const { credential } of all.filter((key) => !chosen.includes(key))) {
    const { source, baseUrl } = credential;
    lines.push(
      `Left out: a file of this project, ${clean(source)}, sends its key to ${clean(baseUrl)}. To import it, choose it by its number.`,
    );
  }
  if (results.length === 0) lines.push("Nothing was imported.");
  const active = await client.activeAccount();
  if (accounts.length > 0 && active !== null) {
    lines.push(
      `${shown(active)} is the active account${active.billedByUse ? "; its requests are billed by use" : ""}.`,
    );
  }
  const failures = results.filter(({ error }) => error !== undefined);
  return {
    value: accounts,
    lines,
    failures: failures.map(lineOf),
    exitCode: failures.length > 0 ? FAILED : undefined,
  };
}

function lineOf({ found, account, error }) {
  const { source, lastFour } = found.credential;
  if (account !== undefined) return `Imported ${shown(account)} from ${clean(source)}.`;
  return `Not imported, from ${clean(source)} (…${clean(lastFour)}): ${clean(error.message)}`;
}

module.exports = {
  summary: "add the keys of other tools, or the accounts in a file",
  operand: "[<file>]",
  options: {
    yes: { type: "boolean", summary: "import all keys that are found, without asking" },
    "dry-run": { type: "boolean", summary: "list what is found, and import nothing" },
  },
  run,
};
