"use strict";

const { failure } = require("../failure");
const { shown } = require("../naming");
const { readSecret } = require("../secret-input");
const { clean } = require("../text");

async function run({ client, options, signal, prompt }) {
  const key = await readSecret("The key (it is not shown): ", prompt, signal);
  if (key.trim() === "") {
    const advice = "Paste it at the prompt, or pass it by standard input.";
    throw failure("ERR_QWEN_INVALID_ARGUMENT", `No key was given. ${advice}`);
  }
  const account = await client.addApiKey({
    key,
    plan: options.plan,
    region: options.region,
    baseUrl: options["base-url"],
    label: options.label,
    check: !options["no-check"],
  });
  return { value: account, lines: success(account, await client.activeAccount()) };
}

function success(account, active) {
  const lines = [`Added ${shown(account)}; its requests go to ${clean(account.baseUrl)}.`];
  if (account.active) lines.push("It is the active account now.");
  else if (active !== null) {
    lines.push(
      `${shown(active)} stays the active account. To use the key first: opencode-qwen-cli-auth use ${account.id}`,
    );
  }
  return lines;
}

module.exports = {
  summary: "add a key of a plan; it is asked for, or read from standard input",
  surplus: "A key is not taken from the arguments, where others can see it. Leave it out: it is asked for.",
  options: {
    plan: { type: "string", value: "P", summary: "coding-plan, token-plan or dashscope; else the key tells" },
    region: { type: "string", value: "R", summary: "cn, intl or us; else the one where the key works" },
    "base-url": { type: "string", value: "U", summary: "send its requests somewhere else" },
    label: { type: "string", value: "L", summary: "what to call the account" },
    "no-check": { type: "boolean", summary: "add it without asking whether it works" },
  },
  run,
};
