"use strict";

// Reads the accounts with their usage.

/**
 * @param {string[]} notes receives the reason if the usage can't be read; the accounts are returned anyway
 * @returns {Promise<object[]>} accounts, with `usage` if it is known
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
