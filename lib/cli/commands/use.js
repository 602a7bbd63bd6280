"use strict";

const { shellWord } = require("../../native");
const { OPERAND, shown, withAccount } = require("../naming");

async function run({ client, operand }) {
  const account = await withAccount(client, operand, ({ id }) => client.setActiveAccount(id));
  const isKey = account.kind === "api-key";
  const lines = [
    `${shown(account)} is the active account now${isKey ? "." : ", and the one of the qwen CLI."}`,
  ];
  if (account.state === "needs-login") {
    lines.push(
      isKey
        ? "Its key was refused. Add it again: opencode-qwen-cli-auth add-key"
        : `It needs a new login: opencode-qwen-cli-auth login --replace=${shellWord(account.id)}`,
    );
  }
  return { value: account, lines };
}

module.exports = {
  summary: "make an account the active one; a login also becomes the qwen CLI's",
  operand: OPERAND,
  options: {},
  run,
};
