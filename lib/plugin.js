"use strict";

// The plugin for OpenCode 1: registers hooks, and reports in OpenCode's log and toasts. Everything that a request depends on
// is in `fetch`, since the user's configuration may replace everything else.

const { QwenClient } = require("./client");
const { shellOperand } = require("./native");
const { AGENT_HEADER, PROVIDER, SERVICE, adopt, keyMethods, placeholder, startLogin } = require("./logins");
const { LOGIN_MODELS, hostModels } = require("./models");
const { pluginOptions } = require("./validate");

/** OpenCode's own limit on the output in tokens, which is lower than the limits of the models. */
const HOST_OUTPUT_LIMIT = 32_000;
/** Delay before the first toast: OpenCode's screen starts seconds after the plugins. */
const FIRST_TOAST_DELAY_MS = 5_000;
/** Delay that puts this toast after OpenCode's own toast about a failed login, which has no details. */
const FAILURE_TOAST_DELAY_MS = 500;

/** Events that are shown as a toast. All others only go to the log. */
const TOASTS = {
  "needs-attention": "error",
  "needs-login": "error",
  "cli-fallback": "warning",
  degraded: "warning",
  exhausted: "warning",
  "store-repaired": "warning",
  ready: "info",
  switched: "info",
};
const LEVELS = {
  "needs-attention": "error",
  "needs-login": "error",
  switched: "info",
  refreshed: "info",
  ready: "info",
};

const PROMPTS = [
  { type: "text", key: "label", message: "A name for the account (may be empty)" },
  { type: "text", key: "replace", message: "The account to renew, by name or id (empty: add one)" },
];

/** Name of the command that shows the accounts without asking a model. */
const COMMAND = "qwen";
/** Text for the model in versions of OpenCode that don't hand commands to plugins first. */
const COMMAND_TEMPLATE =
  "Reply with this sentence alone: This version of OpenCode can't show the Qwen accounts; " +
  `\`npx ${SERVICE} accounts\` does, in a terminal.`;

const LOGGED_OUT = {
  code: "ERR_QWEN_NOT_LOGGED_IN",
  message: "You have logged out of Qwen in OpenCode. Log in again with `opencode auth login`.",
};

/** See `QwenAuthPlugin` in index.d.ts. Never throws: some versions of OpenCode crash, and others drop it silently. */
async function QwenAuthPlugin(input, options) {
  const host = new Host(input?.client);
  const qwen = openClient(options, host);
  let login;
  /** True once this process knows of an entry in OpenCode. OpenCode calls the loader if it has one. */
  let hasEntry = false;
  let hasCommand = false;
  let models = {};

  async function noteEntry() {
    hasEntry = true;
    await host.attempt(async () => qwen.noteHostLogin());
  }

  /** Refuses requests after a logout in OpenCode, although the files of the accounts are still there. */
  async function send(request, init) {
    const isLoggedOut = !hasEntry && (await host.attempt(async () => qwen.hadHostLogin()));
    return isLoggedOut ? refusal(401, LOGGED_OUT) : qwen.fetch(request, init);
  }

  const connection = { apiKey: SERVICE, baseURL: qwen.baseUrl, fetch: send };

  /** Shows an error as a toast, since OpenCode's screen doesn't show thrown errors. */
  async function orToast(step, signal) {
    try {
      return await step;
    } catch (error) {
      if (!signal?.aborted) host.toastLater("error", error.message, FAILURE_TOAST_DELAY_MS);
      throw error;
    }
  }

  async function authorize(inputs) {
    const options = await loginOptions(qwen, inputs);
    // OpenCode doesn't report a cancelled login, so a new login ends the previous one.
    login?.abort(new Error("Another login was started, so this one was cancelled."));
    const { signal } = (login = new AbortController());
    const { account, authorization } = await orToast(startLogin(qwen, { ...options, signal }), signal);
    return {
      url: authorization.verificationUriComplete,
      instructions: `Approve the login in your browser. The code is ${authorization.userCode}.`,
      method: "auto",
      callback: () => entryFor(account, signal),
    };
  }

  /** Resolves with OpenCode's entry for an account, once the account exists. */
  async function entryFor(account, signal) {
    const { id } = await orToast(account, signal);
    await noteEntry();
    return { type: "success", ...placeholder(id) };
  }

  const addKey = async (key, choice) => {
    const account = qwen.addApiKey({ key: String(key ?? ""), ...choice });
    const entry = await entryFor(account);
    host.attempt(async () => tellPrice(await account));
    return entry;
  };

  /** Tells the user about a key that is billed by use. */
  function tellPrice(account) {
    if (!account.billedByUse) return;
    const text = account.active
      ? `"${account.label}" is the active account now. Its requests are billed by use.`
      : `"${account.label}" is billed by use, and another account stays active. To use it: \`npx ${SERVICE} use ${shellOperand(account.id)}\``;
    host.toastLater("warning", text, FAILURE_TOAST_DELAY_MS);
  }

  return {
    auth: {
      provider: PROVIDER,
      loader: async (getAuth) => {
        await host.attempt(async () => adopt(qwen, await getAuth()));
        await noteEntry();
        return connection;
      },
      methods: [
        { type: "oauth", label: "Qwen Code (qwen.ai OAuth)", authorize: () => authorize({}) },
        { type: "oauth", label: "Qwen Code (name the account, or renew one)", prompts: PROMPTS, authorize },
        ...keyMethods(addKey),
      ],
    },
    config: async (config) => {
      host.attempt(() => (hasCommand = addCommand(config)));
      const offered = (await host.attempt(async () => qwen.hostModels())) ?? LOGIN_MODELS;
      host.attempt(() => {
        models = hostModels(offered);
        configure(config, connection, models);
      });
    },
    "chat.params": async (request, output) => {
      host.attempt(() => capOutput(request, output, models));
    },
    "chat.headers": async (request, output) => {
      host.attempt(() => nameSession(request, output));
    },
    "command.execute.before": async ({ command }) => {
      if (command === COMMAND && hasCommand) await showAccounts(qwen, host);
    },
    dispose: async () => {
      login?.abort();
      qwen.close();
    },
  };
}

/** Converts the user's answers to options of `login`. Without answers, a login adds an account. */
async function loginOptions(qwen, inputs) {
  const options = {};
  const [label, named] = [inputs?.label?.trim(), inputs?.replace?.trim()];
  if (label) options.label = label;
  if (named) {
    const found = (await qwen.accounts()).filter((account) => [account.id, account.label].includes(named));
    if (found.length !== 1) {
      const problem = found.length === 0 ? "is not a Qwen account" : "is the name of several Qwen accounts";
      throw new Error(`"${named}" ${problem}. \`npx ${SERVICE} accounts --json\` lists their ids.`);
    }
    options.replace = found[0].id;
  }
  return options;
}

/** Registers the provider. The user's own settings take precedence. */
function configure(config, connection, models) {
  const ours = {
    npm: "@ai-sdk/openai-compatible",
    name: "Qwen Code",
    options: connection,
    models,
  };
  config.provider ??= {};
  config.provider[PROVIDER] = mergeUnder(ours, config.provider[PROVIDER]);
}

/** Registers the command, unless the user has one of that name. */
function addCommand(config) {
  config.command ??= {};
  if (COMMAND in config.command) return false;
  config.command[COMMAND] = {
    description: "Qwen accounts and their usage",
    template: COMMAND_TEMPLATE,
  };
  return true;
}

/** Throws so that OpenCode doesn't send the command to the model. */
async function showAccounts(qwen, host) {
  const { describe } = require("./accounts-toast");
  const { overview } = require("./cli/overview");
  const problems = [];
  const accounts = await overview(qwen, problems).catch((error) => {
    problems.push(error.message);
    return [];
  });
  const isEmpty = accounts.length === 0 && problems.length === 0;
  const elsewhere = isEmpty ? await require("./cli/found-keys").elsewhere(qwen) : [];
  const [variant, message] =
    problems.length > 0 ? ["error", problems[0]] : ["info", describe(accounts, Date.now(), elsewhere)];
  host.toastLater(variant, message, FAILURE_TOAST_DELAY_MS);
  throw new Error("The Qwen accounts are shown beside the conversation.");
}

/** Merges `theirs` over `ours`, object by object. */
function mergeUnder(ours, theirs) {
  if (theirs === undefined || theirs === null) return structuredCopy(ours);
  if (!isPlain(ours) || !isPlain(theirs)) return theirs;
  const merged = structuredCopy(ours);
  for (const [key, value] of Object.entries(theirs)) merged[key] = mergeUnder(ours[key], value);
  return merged;
}

function structuredCopy(value) {
  if (!isPlain(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, structuredCopy(inner)]));
}

function isPlain(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Sets the output limit to the model's own, unless the user has set a lower one. */
function capOutput(request, output, models) {
  if (!isOurs(request)) return;
  const limit = request.model?.limit?.output || models[request.model?.id]?.limit.output;
  if (!(limit > 0)) return;
  output.options ??= {};
  const chosen = output.options.max_tokens;
  if (typeof chosen === "number") {
    output.options.max_tokens = Math.min(chosen, limit);
    return;
  }
  const isHostDefault =
    output.maxOutputTokens === undefined || output.maxOutputTokens === Math.min(limit, HOST_OUTPUT_LIMIT);
  if (!isHostDefault) return;
  output.options.max_tokens = limit;
  if (output.maxOutputTokens !== undefined) output.maxOutputTokens = limit;
}

/**
 * Tells the core the session and the agent of a request. The core never shortens summaries and titles, since their text
 * replaces the conversation. The agent is not sent to Qwen.
 */
function nameSession(request, output) {
  if (!isOurs(request)) return;
  output.headers ??= {};
  if (typeof request.sessionID === "string") output.headers["x-session-id"] ??= request.sessionID;
  // A string in some versions, an object in others.
  const agent = request.agent?.name ?? request.agent;
  if (typeof agent === "string") output.headers[AGENT_HEADER] = encodeURIComponent(agent);
}

function isOurs({ provider, model }) {
  return [provider?.info?.id, provider?.id, model?.providerID].includes(PROVIDER);
}

/** Returns the plugin's client, or one that rejects with the reason why there is none. */
function openClient(options, host) {
  try {
    const { settings, ignored } = pluginOptions(options);
    if (ignored.length > 0) tellIgnored(ignored, host);
    return new QwenClient({ ...settings, onEvent: (event) => host.tell(event) }, true);
  } catch (error) {
    host.log("error", error.message, { code: error.code });
    host.toastLater("error", error.message, FIRST_TOAST_DELAY_MS);
    return brokenClient(error);
  }
}

/** Tells the user which options are ignored. Values are not shown, since they may be secrets. */
function tellIgnored(names, host) {
  const shown = names.slice(0, 10).map((name) => printable(name));
  const message =
    `Ignored in opencode.json: ${shown.join(", ")}. A project's configuration can't choose servers, files or programs, or allow costs; ` +
    `set them in the environment (docs/plugin-options.md of ${SERVICE}).`;
  host.log("warn", message, { code: "ERR_QWEN_INVALID_CONFIG" });
  host.toastLater("warning", message, FIRST_TOAST_DELAY_MS);
}

const printable = (name) => name.replaceAll(/[^\w.-]/gu, "?").slice(0, 40);

function brokenClient(error) {
  const fail = async () => {
    throw error;
  };
  return {
    baseUrl: "https://dashscope.aliyuncs.com/compatible-mode/v1",
    fetch: async () => refusal(400, error),
    login: fail,
    accounts: fail,
    addApiKey: fail,
    hostModels() {},
    adopt() {},
    noteHostLogin() {},
    hadHostLogin() {},
    close() {},
  };
}

/** Returns a response that OpenCode shows unchanged and doesn't retry. */
function refusal(status, { code, message }) {
  const body = JSON.stringify({ error: { message, type: "qwen_error" } });
  const headers = { "content-type": "application/json", "x-qwen-error": code };
  return new Response(body, { status, headers });
}

/** Reports through OpenCode's log and toasts. Printed text would garble its screen. */
class Host {
  #client;

  constructor(client) {
    this.#client = client;
  }

  /** Runs the work of a hook and logs its errors: a hook that throws crashes OpenCode or is dropped silently. */
  attempt(work) {
    const failed = (error) => this.log("error", error?.message ?? String(error));
    try {
      const result = work();
      return result instanceof Promise ? result.catch(failed) : result;
    } catch (error) {
      return failed(error);
    }
  }

  tell({ message, ...event }) {
    this.log(LEVELS[event.type] ?? "warn", message, event);
    if (event.type in TOASTS) this.toast(TOASTS[event.type], message);
  }

  /** Names the service twice, since some versions don't log the first one. */
  log(level, message, extra) {
    const body = { service: SERVICE, level, message, extra: { service: SERVICE, ...extra } };
    this.#send(() => this.#client?.app?.log({ body }));
  }

  toast(variant, message) {
    this.#send(() =>
      this.#client?.tui?.showToast({ body: { title: "Qwen", message, variant, duration: 10_000 } }),
    );
  }

  toastLater(variant, message, delayMs) {
    setTimeout(() => this.toast(variant, message), delayMs).unref?.();
  }

  /** Doesn't wait: during its start OpenCode answers only after the plugins are loaded. */
  #send(request) {
    try {
      Promise.resolve(request()).catch(() => {});
    } catch {
      // There is no other place to report it.
    }
  }
}

module.exports = { QwenAuthPlugin };
