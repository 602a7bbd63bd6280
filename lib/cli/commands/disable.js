"use strict";

const { OPERAND, shown } = require("../naming");
const { setEnabled } = require("../enabling");

async function run({ client, operand }) {
  const { account, active } = await setEnabled(client, operand, false);
  return { value: account, lines: [`${shown(account)} is disabled: no request is sent with it.`, ...active] };
}

module.exports = {
  summary: "keep an account, but send no requests with it",
  operand: OPERAND,
  options: {},
  run,
};
