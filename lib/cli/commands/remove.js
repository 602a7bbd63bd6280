"use strict";

const { existsSync } = require("node:fs");
const { clean } = require("../text");
const { OPERAND, shown, withAccount } = require("../naming");

async function run({ client, operand, options }) {
  const [path] = client.accountFiles;
  const wasThere = existsSync(path);
  const removed = await withAccount(client, operand, async (account) => {
    const { leftBehind } = await client.removeAccount(account.id, { revoke: options.revoke });
    return { ...account, leftBehind };
  });
  const lines = [`Removed ${shown(removed)}.`];
  if (wasThere && !existsSync(path)) lines.push("The qwen CLI used this login too; it is logged out.");
  for (const file of removed.leftBehind) {
    lines.push(
      `This file still contains its token, or can't be searched. Edit or remove it yourself: ${clean(file)}`,
    );
  }
  const left = removed.leftBehind.length > 0 ? { leftBehind: removed.leftBehind } : {};
  return { value: { removed: removed.id, ...left }, lines };
}

module.exports = {
  summary: "remove an account for good; may log the qwen CLI out",
  operand: OPERAND,
  options: {
    revoke: { type: "boolean", summary: "also ask the server to revoke the login, if it offers that" },
  },
  run,
};
