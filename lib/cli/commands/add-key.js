"use strict";

const { pageLines } = require("../../key-pages");
const { shellOperand } = require("../../native");
const { failure } = require("../failure");
const { shown } = require("../naming");
const { readSecret } = require("../secret-input");
const { clean } = require("../text");

async function run({ client, options, signal, prompt }) {
  const { plan, region, label, tier, "base-url": baseUrl } = options;
  if (process.stdin.isTTY) showPages(prompt, { plan, region, baseUrl });
  const key = await readSecret("The key (it is not shown): ", prompt, signal);
  if (key.trim() === "") {
    const advice = "Paste it at the prompt, or pass it by standard input.";
    throw failure("ERR_QWEN_INVALID_ARGUMENT", `No key was given. ${advice}`);
  }
  const check = !options["no-check"];
  const account = await client.addApiKey({ key, plan, region, baseUrl, label, tier, check });
  return { value: account, lines: success(account, await client.activeAccount()) };
}

/** Shows where keys are found, except for a server of the user's own. */
function showPages(prompt, { plan, region, baseUrl }) {
  if (baseUrl !== undefined) return;
  prompt.print("Keys are on these pages:", ...pageLines({ plan, region }).map((line) => `  ${line}`));
}

function success(account, active) {
  const lines = [`Added ${shown(account)}; its requests go to ${clean(account.baseUrl)}.`];
  const price = account.billedByUse ? " Its requests are billed by use." : "";
  if (account.active) lines.push(`It is the active account now.${price}`);
  else if (active !== null) {
    lines.push(
      `${shown(active)} stays the active account. To use the key first: opencode-qwen-cli-auth use ${shellOperand(account.id)}${
        price && " (billed by use)"
      }`,
    );
  }
  return lines;
}

module.exports = {
  summary: "add a key of a plan, from a hidden prompt or standard input",
  surplus: "A key is not taken from the arguments, where others can see it. Leave it out: it is asked for.",
  options: {
    plan: {
      type: "string",
      value: "P",
      summary: "token-plan, coding-plan or dashscope; detected by default",
    },
    region: { type: "string", value: "R", summary: "cn, intl, us or hk; detected by default" },
    "base-url": { type: "string", value: "U", summary: "the base URL of a workspace or another server" },
    label: { type: "string", value: "L", summary: "a name for the account" },
    tier: {
      type: "string",
      value: "T",
      summary: "lite, standard or pro: the size of the plan, for estimates of its usage",
    },
    "no-check": { type: "boolean", summary: "add the key without checking it" },
  },
  run,
};
