"use strict";

// The OpenCode plugin: registers hooks, and says in OpenCode's own places what happens. All that matters to a request
// happens in `fetch`, since a user's configuration may replace everything else.

const { QwenClient } = require("./client");
const { MODELS } = require("./models");
const { options: readOptions, clientOptions } = require("./validate");

const PROVIDER = "qwen-code";
const SERVICE = "opencode-qwen-cli-auth";
/** OpenCode's own limit on what it asks for, which is lower than what the models give. */
const HOST_OUTPUT_LIMIT = 32_000;
const TEN_YEARS_MS = 10 * 365 * 24 * 3600 * 1000;
/** A toast needs a screen, and at the start there is none yet. */
const FIRST_TOAST_DELAY_MS = 2_000;

const LEVELS = { "needs-login": "error", retry: "warn", config: "warn" };

/** See `QwenAuthPlugin` in index.d.ts. Never throws: some versions of OpenCode die of it, others say nothing. */
async function QwenAuthPlugin(input, options) {
  const host = new Host(input?.client);
  const qwen = openClient(options, host);
  let login;

  async function authorize() {
    // Nobody tells a plugin that the user gave up; a new login is the sign.
    login?.abort();
    login = new AbortController();
    const { signal } = login;
    const { promise: authorized, resolve: onAuthorization } = Promise.withResolvers?.() ?? withResolvers();
    const account = qwen.login({ signal, onAuthorization });
    // It is awaited in the callback, which may never be called.
    account.catch(() => {});
    const authorization = await Promise.race([authorized, account]);
    return {
      url: authorization.verificationUriComplete,
      instructions: `Approve the login in your browser. The code is ${authorization.userCode}.`,
      method: "auto",
      callback: async () => {
        const { id } = await account;
        return { type: "success", ...placeholder(id) };
      },
    };
  }

  return {
    auth: {
      provider: PROVIDER,
      loader: async (getAuth) => {
        await host.attempt(async () => qwen.adopt?.(await getAuth()));
        return connection(qwen);
      },
      methods: [{ type: "oauth", label: "Qwen Code (qwen.ai OAuth)", authorize }],
    },
    config: async (config) => {
      host.attempt(() => configure(config, qwen));
    },
    "chat.params": async (request, output) => {
      host.attempt(() => capOutput(request, output));
    },
    "chat.headers": async (request, output) => {
      host.attempt(() => nameSession(request, output));
    },
    dispose: async () => {
      login?.abort();
      qwen.close();
    },
  };
}

/** What a provider needs to send its requests through us. */
function connection(qwen) {
  return { apiKey: SERVICE, baseURL: qwen.baseUrl, fetch: qwen.fetch };
}

/** A stand-in that names the account: a copy of the token would go stale. */
function placeholder(accountId) {
  const text = `${SERVICE}:${accountId}`;
  return { access: text, refresh: text, expires: Date.now() + TEN_YEARS_MS };
}

/** The provider, under whatever the user has configured for it. */
function configure(config, qwen) {
  const ours = {
    npm: "@ai-sdk/openai-compatible",
    name: "Qwen Code",
    options: connection(qwen),
    models: MODELS,
  };
  config.provider ??= {};
  config.provider[PROVIDER] = mergeUnder(ours, config.provider[PROVIDER]);
}

/** `theirs` over `ours`, object by object. */
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

/** Asks for as much output as the model gives, unless the user has set a limit, and for no more. */
function capOutput(request, output) {
  if (!isOurs(request)) return;
  const limit = request.model?.limit?.output || MODELS[request.model?.id]?.limit.output;
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

/** Lets the core tell Qwen which requests belong together. */
function nameSession(request, output) {
  if (!isOurs(request) || typeof request.sessionID !== "string") return;
  output.headers ??= {};
  output.headers["x-session-id"] ??= request.sessionID;
}

function isOurs({ provider, model }) {
  return [provider?.info?.id, provider?.id, model?.providerID].includes(PROVIDER);
}

/** The plugin's own client, or one that says why there is none. */
function openClient(options, host) {
  try {
    const settings = clientOptions(readOptions(options, "options", {}) && options);
    return new QwenClient({ ...settings, onEvent: (event) => host.tell(event) }, true);
  } catch (error) {
    host.log("error", error.message, { code: error.code });
    host.toastSoon("error", error.message);
    return brokenClient(error);
  }
}

function brokenClient(error) {
  const body = JSON.stringify({ error: { message: error.message, type: "qwen_error" } });
  const headers = { "content-type": "application/json", "x-qwen-error": error.code };
  return {
    baseUrl: "https://dashscope.aliyuncs.com/compatible-mode/v1",
    fetch: async () => new Response(body, { status: 400, headers }),
    login: async () => {
      throw error;
    },
    close() {},
  };
}

function withResolvers() {
  let resolve;
  const promise = new Promise((resolver) => {
    resolve = resolver;
  });
  return { promise, resolve };
}

/** OpenCode's places for news: its log, and toasts. Anything printed would land on its screen. */
class Host {
  #client;

  constructor(client) {
    this.#client = client;
  }

  /** Runs a hook's work; a hook that throws takes OpenCode down or is forgotten in silence. */
  attempt(work) {
    const failed = (error) => this.log("error", error?.message ?? String(error));
    try {
      const result = work();
      return result instanceof Promise ? result.catch(failed) : result;
    } catch (error) {
      return failed(error);
    }
  }

  tell(event) {
    const level = LEVELS[event.type] ?? "info";
    this.log(level, event.message, event);
    if (level === "error") this.toast(level, event.message);
  }

  log(level, message, extra) {
    this.#send(() => this.#client?.app?.log({ body: { service: SERVICE, level, message, extra } }));
  }

  toast(variant, message) {
    this.#send(() =>
      this.#client?.tui?.showToast({ body: { title: "Qwen", message, variant, duration: 10_000 } }),
    );
  }

  toastSoon(variant, message) {
    setTimeout(() => this.toast(variant, message), FIRST_TOAST_DELAY_MS).unref?.();
  }

  /** Not awaited: during start-up OpenCode answers only once the plugins are loaded. */
  #send(request) {
    try {
      Promise.resolve(request()).catch(() => {});
    } catch {
      // There is no place left to say it.
    }
  }
}

module.exports = { QwenAuthPlugin };
