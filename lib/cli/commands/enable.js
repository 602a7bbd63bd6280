"use strict";

const { OPERAND, shown } = require("../naming");
const { setEnabled } = require("../enabling");

async function run({ client, operand }) {
  const { account, active } = await setEnabled(client, operand, true);
  return {
    value: account,
    lines: [`${shown(account)} is enabled and can get requests.`, ...active],
  };
}

module.exports = {
  summary: "send requests with an account again",
  operand: OPERAND,
  options: {},
  run,
};
