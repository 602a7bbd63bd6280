"use strict";

// Finds accounts by the names that users give.

const { failure } = require("./failure");
const { clean, quotedWord } = require("./text");

const LOG_IN = "Log in with: opencode-qwen-cli-auth login";
const OPERAND = "<id|label>";

const shown = ({ id, label }) => `"${clean(label)}" (${clean(id)})`;

/**
 * Runs `act` with the account that a name refers to.
 *
 * @param {string} name an id or a label
 */
async function withAccount(client, name, act) {
  const accounts = await client.accounts();
  const byId = accounts.filter(({ id }) => id === name);
  const named = byId.length > 0 ? byId : accounts.filter(({ label }) => isLabel(name, label));
  if (named.length > 1) {
    const ids = named.map(({ id }) => clean(id)).join(", ");
    const message = `${named.length} accounts are called "${clean(name)}". Name one by its id: ${ids}`;
    throw failure("ERR_QWEN_INVALID_ARGUMENT", message);
  }
  if (named.length === 1) return act(named[0]);
  try {
    // Some accounts aren't listed.
    return await act({ id: name, label: name });
  } catch (error) {
    throw error.code === "ERR_QWEN_INVALID_ARGUMENT" ? unknown(name, accounts) : error;
  }
}

/** Also matches a label in its displayed form, since control characters are hard to type. */
function isLabel(name, label) {
  return [label, clean(label)].some((text) => text.normalize() === name.normalize());
}

function unknown(name, accounts) {
  if (accounts.length === 0) return failure("ERR_QWEN_NOT_LOGGED_IN", `There is no account. ${LOG_IN}`);
  const labels = accounts.map(({ label }) => `"${clean(label)}"`).join(", ");
  const message = `No account has the id or label${quotedWord(name) || " given"}. There are: ${labels}`;
  return failure("ERR_QWEN_INVALID_ARGUMENT", message);
}

module.exports = { LOG_IN, OPERAND, shown, withAccount };
