"use strict";

const { UsageError } = require("../failure");
const { readKeyFile } = require("../key-file");
const { accountsTable } = require("../table");
const { clean, json } = require("../text");

const MAX_PORT = 65_535;
const thousands = new Intl.NumberFormat("en-US");

/** Resolves once the signal is aborted. */
async function run({ client, options, signal, screen, prompt, tellNotes }) {
  const accounts = await client.accounts();
  const key = options["key-file"] === undefined ? undefined : readKeyFile(options["key-file"]);
  const show = options.json
    ? asJson(screen)
    : asLines(client, accounts, options["print-env"] ? prompt : screen);
  const onRequest = (entry) => {
    tellNotes();
    show(entry);
  };
  const ended = new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  const gateway = await client.serve({ port: portOf(options), key }, { onRequest });
  announce(gateway, accounts, { options, screen });
  tellNotes();
  if (!signal.aborted) await ended;
  await gateway.close();
}

function portOf({ port }) {
  return port === undefined ? 0 : Number(port);
}

/** Validates the options before the server opens. */
function check(options) {
  const { port } = options;
  if (port !== undefined && !(/^\d{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= MAX_PORT)) {
    throw new UsageError(`--port must be a number from 1 to ${MAX_PORT}.`, "serve");
  }
  if (options.json && options["print-env"]) {
    throw new UsageError("--json and --print-env can't be used together.", "serve");
  }
}

function announce({ url, key }, accounts, { options, screen }) {
  if (options.json) return screen.print(json({ url, key, accounts }));
  if (options["print-env"]) return screen.print(`OPENAI_BASE_URL=${url}`, `OPENAI_API_KEY=${key}`);
  const table = accountsTable(accounts, { columns: screen.columns, now: Date.now(), style: screen.style });
  screen.print(`Address   ${url}`, `Key       ${key}`, "", ...table, "", "Requests, until Ctrl-C:");
}

function asJson(screen) {
  return (entry) => screen.print(json(entry));
}

/** Returns a listener that prints one line per request: time, request, model, account, status, duration, tokens. */
function asLines(client, accounts, screen) {
  const labels = new Map();
  const learn = (list) => list.forEach((account) => labels.set(account.id, account.label));
  learn(accounts);
  return async (entry) => {
    // The account may be new.
    if (entry.account && !labels.has(entry.account)) await client.accounts().then(learn, () => {});
    screen.print(lineOf(entry, labels.get(entry.account) ?? entry.account));
  };
}

function lineOf({ at, method, path, model, status, durationMs, inputTokens, outputTokens }, account) {
  const time = new Date(at).toTimeString().slice(0, 8);
  const used = inputTokens === null ? [] : [`${count(inputTokens)} in, ${count(outputTokens)} out`];
  const parts = [
    time,
    `${method} ${path}`,
    model ?? "-",
    account ?? "-",
    String(status ?? "left"),
    seconds(durationMs),
  ];
  return [...parts, ...used].map(clean).join("  ");
}

function count(tokens) {
  return thousands.format(tokens);
}

function seconds(ms) {
  return ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`;
}

module.exports = {
  summary: "open a local OpenAI-compatible server for other programs",
  options: {
    port: { type: "string", value: "N", summary: "the port (default: a free one)" },
    "key-file": {
      type: "string",
      value: "F",
      summary: "the file with the key for programs (created if missing; default: a new key each time)",
    },
    "print-env": { type: "boolean", summary: "print OPENAI_BASE_URL and OPENAI_API_KEY, and nothing else" },
  },
  check,
  run,
};
