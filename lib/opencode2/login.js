"use strict";

// The login methods of OpenCode 2. OpenCode keeps a placeholder that names the account, since its own file of credentials is
// plain text.

const { PLANS, PROVIDER, keyPagesFor, placeholder, startLogin } = require("../logins");

/** The id that OpenCode 2 gives to a login that it imports from OpenCode 1. */
const OAUTH = "oauth";
const KEY = "key";
const HOME = "https://chat.qwen.ai";

/** Hidden, since plan and region are detected. `--answer` can set them. */
const KEY_FORM = [
  {
    key: "plan",
    type: "string",
    title: "Plan",
    required: false,
    hidden: true,
    options: PLANS,
  },
  { key: "region", type: "string", title: "Region", required: false, hidden: true },
];

/** Marks a promise as handled, since it may reject before OpenCode listens to it. */
function guarded(promise) {
  promise.catch(() => {});
  return promise;
}

/** Returns a login that fails: OpenCode only shows the errors of the callback. */
function failed(error) {
  return {
    mode: "auto",
    url: HOME,
    instructions: error?.message ?? String(error),
    callback: guarded(Promise.reject(error)),
  };
}

/**
 * @param {object} host
 * @param {() => import("../client").QwenClient} host.client throws the reason if there is none
 * @param {(id: string) => string | undefined} host.labelOf
 * @param {(account: object) => void} host.onAccount called after an account was added, before `labelOf` is asked for it
 * @param {AbortSignal} host.signal cancels logins in progress
 */
function loginMethods({ client, labelOf, onAccount, signal }) {
  let login;

  const credential = (methodID) => (account) => {
    onAccount(account);
    return { type: "oauth", methodID, ...placeholder(account.id) };
  };

  async function authorize() {
    try {
      // OpenCode doesn't report a cancelled login, so a new login ends the previous one.
      login?.abort(new Error("Another login was started, so this one was cancelled."));
      login = new AbortController();
      const ended = AbortSignal.any([login.signal, signal]);
      const { account, authorization } = await startLogin(client(), { signal: ended });
      return {
        mode: "auto",
        url: authorization.verificationUriComplete,
        instructions: `Approve the login in your browser. The code is ${authorization.userCode}.`,
        expiresAt: Date.now() + authorization.expiresIn * 1000,
        callback: guarded(account.then(credential(OAUTH))),
      };
    } catch (error) {
      return failed(error);
    }
  }

  async function authorizeKey(answer) {
    try {
      const { choice, url, pages } = keyPagesFor(answer);
      return {
        mode: "code",
        url,
        instructions: `Paste a key of a Token Plan, a Coding Plan or DashScope. Its plan and region are detected. ${pages}`,
        callback: async (key) =>
          credential(KEY)(await client().addApiKey({ key: String(key ?? ""), ...choice })),
      };
    } catch (error) {
      return failed(error);
    }
  }

  const label = ({ access }) => labelOf(access);
  return [
    {
      integrationID: PROVIDER,
      method: { id: OAUTH, type: "oauth", label: "Qwen Code (qwen.ai OAuth)" },
      authorize,
      label,
    },
    {
      integrationID: PROVIDER,
      method: { id: KEY, type: "oauth", label: "Coding Plan, Token Plan or DashScope key", form: KEY_FORM },
      authorize: authorizeKey,
      label,
    },
  ];
}

module.exports = { loginMethods };
