"use strict";

const { OPERAND, shown } = require("../naming");
const { setEnabled } = require("../enabling");

async function run({ client, operand }) {
  const { account, active } = await setEnabled(client, operand, false);
  return { value: account, lines: [`${shown(account)} is disabled and gets no requests.`, ...active] };
}

module.exports = {
  summary: "keep an account, but send no requests with it",
  operand: OPERAND,
  options: {},
  run,
};
