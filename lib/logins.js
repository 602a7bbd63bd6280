"use strict";

// A login as a host shows it, and what a host keeps of an account.

const SERVICE = "opencode-qwen-cli-auth";
const PLACEHOLDER = `${SERVICE}:`;
const TEN_YEARS_MS = 10 * 365 * 24 * 3600 * 1000;

/** Starts a login, and waits until there is something to show. The account comes when the user has approved. */
async function startLogin(qwen, options) {
  let account;
  const authorization = await new Promise((onAuthorization, onFailure) => {
    account = qwen.login({ ...options, onAuthorization });
    // Whoever waits for the account hears of a later failure; there may be nobody.
    account.catch(onFailure);
  });
  return { account, authorization };
}

/** A stand-in that names the account: a copy of the token would go stale. */
function placeholder(accountId) {
  const text = PLACEHOLDER + accountId;
  return { access: text, refresh: text, expires: Date.now() + TEN_YEARS_MS };
}

/** The account that a placeholder names. */
function accountOf(access) {
  return access?.startsWith?.(PLACEHOLDER) ? access.slice(PLACEHOLDER.length) : undefined;
}

/** Real tokens in a host's own file are what another version of the plugin left there. */
async function adopt(qwen, auth) {
  const isReal =
    auth?.type === "oauth" && auth.access && auth.refresh && accountOf(auth.access) === undefined;
  if (isReal) await qwen.adopt(auth);
}

module.exports = { SERVICE, accountOf, adopt, placeholder, startLogin };
