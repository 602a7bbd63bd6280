"use strict";

// The names that both versions of the plugin use, a login as OpenCode shows it, the placeholder that OpenCode keeps for an
// account, and the methods that add a key. One file, since the plugin needs all of it at its start.

const SERVICE = "opencode-qwen-cli-auth";
/** OpenCode's name for the provider, and for its login in OpenCode 2. */
const PROVIDER = "qwen-code";
/** Tells the core which agent of OpenCode asks. The core doesn't send it to Qwen. */
const AGENT_HEADER = "x-qwen-agent";
const PLACEHOLDER = `${SERVICE}:`;
const TEN_YEARS_MS = 10 * 365 * 24 * 3600 * 1000;

/**
 * Starts a login and waits until there is an address to show.
 *
 * @returns {Promise<{account: Promise<any>, authorization: any}>} `account` resolves when the user has approved
 */
async function startLogin(qwen, options) {
  /** @type {Promise<any>} */
  let account = Promise.resolve();
  const authorization = await new Promise((onAuthorization, onFailure) => {
    account = qwen.login({ ...options, onAuthorization });
    // A later failure reaches the caller through `account`, and must not be reported as unhandled.
    account.catch(onFailure);
  });
  return { account, authorization };
}

/** An entry for OpenCode that names the account, since a copy of the token would become stale. */
function placeholder(accountId) {
  const text = PLACEHOLDER + accountId;
  return { access: text, refresh: text, expires: Date.now() + TEN_YEARS_MS };
}

/** The id of the account that a placeholder names. */
function accountOf(access) {
  return access?.startsWith?.(PLACEHOLDER) ? access.slice(PLACEHOLDER.length) : undefined;
}

/** Imports the tokens that another version of the plugin left in OpenCode's own file. */
async function adopt(qwen, auth) {
  const isReal =
    auth?.type === "oauth" && auth.access && auth.refresh && accountOf(auth.access) === undefined;
  if (isReal) await qwen.adopt(auth);
}

// OpenCode asks for a key as for a login code, so that it keeps a placeholder for the account and not the key. A method of
// type `api` would write the key into OpenCode's own file.

const ANY = "";

const PLANS = [
  { label: "Token Plan", value: "token-plan" },
  { label: "Coding Plan", value: "coding-plan" },
  { label: "DashScope (billed by use)", value: "dashscope" },
];

const PROMPTS = [
  {
    type: "select",
    key: "plan",
    message: "Which plan is the key of?",
    options: [{ label: "I don't know: find out", value: ANY }, ...PLANS],
  },
  {
    type: "select",
    key: "region",
    message: "In which region?",
    options: [
      { label: "I don't know: find out", value: ANY },
      { label: "China", value: "cn" },
      { label: "International", value: "intl" },
      { label: "United States (DashScope)", value: "us" },
      { label: "Hong Kong (DashScope)", value: "hk" },
    ],
  },
];

/** OpenCode has no hidden prompt for a code, so the user has to know before pasting. */
const VISIBLE =
  "The key is visible while you paste it here. To enter it hidden, cancel and run `npx opencode-qwen-cli-auth add-key`.";

/** Returns the plan and region that the user chose, the first page that shows such keys, and a sentence with all pages. */
function keyPagesFor(inputs) {
  // Loaded when a key is asked for: each file costs time at the start of OpenCode.
  const { pageLines, pagesOf } = require("./key-pages");
  const choice = { plan: inputs?.plan || undefined, region: inputs?.region || undefined };
  return { choice, url: pagesOf(choice)[0].page, pages: `Key pages: ${pageLines(choice).join("; ")}` };
}

/**
 * Returns the login methods for keys: one asks for the key alone, the other for plan and region too, which needs a
 * terminal in OpenCode.
 *
 * @param {(key: string, choice: { plan?: string, region?: string }) => Promise<object>} add adds the
 *   key, and resolves with the credential that OpenCode keeps
 */
function keyMethods(add) {
  const authorize = async (inputs) => {
    const { choice, url, pages } = keyPagesFor(inputs);
    return {
      url,
      instructions: `Paste a key of a Token Plan, a Coding Plan or DashScope. ${VISIBLE} ${pages}`,
      method: "code",
      callback: (key) => add(key, choice),
    };
  };
  return [
    { type: "oauth", label: "Coding Plan, Token Plan or DashScope key", authorize },
    {
      type: "oauth",
      label: "Coding Plan, Token Plan or DashScope key (choose plan and region)",
      prompts: PROMPTS,
      authorize,
    },
  ];
}

module.exports = {
  AGENT_HEADER,
  PLANS,
  PROVIDER,
  SERVICE,
  accountOf,
  adopt,
  keyMethods,
  keyPagesFor,
  placeholder,
  startLogin,
};
