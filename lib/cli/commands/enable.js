"use strict";

const { OPERAND, shown } = require("../naming");
const { setEnabled } = require("../enabling");

async function run({ client, operand }) {
  const { account, active } = await setEnabled(client, operand, true);
  return {
    value: account,
    lines: [`${shown(account)} is enabled: requests may be sent with it.`, ...active],
  };
}

module.exports = {
  summary: "send requests with an account again",
  operand: OPERAND,
  options: {},
  run,
};
