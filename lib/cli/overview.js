"use strict";

// The accounts, each with what it has given.

/**
 * @param {string[]} notes gets why there are no figures, where there are none: the accounts are told all the same
 * @returns {Promise<object[]>} accounts, with `usage` where it is known
 */
async function overview(client, notes) {
  const accounts = await client.accounts();
  let usages = [];
  try {
    usages = await client.usage();
  } catch (error) {
    notes.push(error.message);
  }
  const figures = new Map(usages.map(({ accountId, label: _label, ...usage }) => [accountId, usage]));
  for (const account of accounts) {
    if (figures.has(account.id)) account.usage = figures.get(account.id);
  }
  return accounts;
}

module.exports = { overview };
