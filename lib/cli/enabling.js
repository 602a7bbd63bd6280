"use strict";

// Enables and disables accounts, and describes the effect on the active account.

const { shellOperand } = require("../native");
const { shown, withAccount } = require("./naming");

/**
 * @param {string} name an id or a label
 * @returns {Promise<{ account: object, active: string[] }>} the account, and lines about the effect on the active one
 */
async function setEnabled(client, name, enabled) {
  const before = await client.activeAccount();
  const account = await withAccount(client, name, ({ id }) => client.updateAccount(id, { enabled }));
  return { account, active: describe(before, await client.accounts()) };
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

module.exports = { setEnabled };
