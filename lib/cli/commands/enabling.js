"use strict";

// The commands that enable and disable an account. They describe the effect on the active account.

const { shellOperand } = require("../../native");
const { OPERAND, shown, withAccount } = require("../naming");

/** @param {string} effect what became of the account, for a sentence about it */
function command(summary, enabled, effect) {
  const run = async ({ client, operand }) => {
    const before = await client.activeAccount();
    const account = await withAccount(client, operand, ({ id }) => client.updateAccount(id, { enabled }));
    return {
      value: account,
      lines: [`${shown(account)} is ${effect}.`, ...describe(before, await client.accounts())],
    };
  };
  return { summary, operand: OPERAND, options: {}, run };
}

function describe(before, accounts) {
  const active = accounts.find((account) => account.active);
  if (active === undefined) return [];
  if (active.enabled) {
    if (active.id === before?.id) return [];
    const price = active.billedByUse ? " It is billed by use." : "";
    return [`${shown(active)} is the active account now.${price}`];
  }
  const left = accounts.find(({ enabled }) => enabled);
  if (left === undefined) return ["No account is enabled: every request is refused until you enable one."];
  return [
    "Only accounts that are billed by use are enabled. They get no requests until you choose one:",
    `opencode-qwen-cli-auth use ${shellOperand(left.id)}`,
  ];
}

module.exports = {
  disable: command("keep an account, but send no requests with it", false, "disabled and gets no requests"),
  enable: command("send requests with an account again", true, "enabled and can get requests"),
};
