"use strict";

const { existsSync } = require("node:fs");
const { credentialsFile } = require("../directory");
const { OPERAND, shown, withAccount } = require("../naming");

async function run({ client, operand, env }) {
  const path = credentialsFile(env);
  const wasThere = existsSync(path);
  const removed = await withAccount(client, operand, async (account) => {
    await client.removeAccount(account.id);
    return account;
  });
  const lines = [`Removed ${shown(removed)}.`];
  if (wasThere && !existsSync(path)) lines.push("The qwen CLI used this login too; it is logged out.");
  return { value: { removed: removed.id }, lines };
}

module.exports = {
  summary: "remove an account for good; may log the qwen CLI out",
  operand: OPERAND,
  options: {},
  run,
};
