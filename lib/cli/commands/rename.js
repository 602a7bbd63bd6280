"use strict";

const { OPERAND, shown, withAccount } = require("../naming");
const { clean } = require("../text");
const { label } = require("../../validate");

async function run({ client, operand, name }) {
  label(name, "<name>");
  const account = await withAccount(client, operand, ({ id }) => client.updateAccount(id, { label: name }));
  return { value: account, lines: [`"${clean(operand)}" is ${shown(account)} now.`] };
}

module.exports = {
  summary: "rename an account",
  operand: OPERAND,
  name: "<name>",
  options: {},
  run,
};
