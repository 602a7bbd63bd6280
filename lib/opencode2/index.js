"use strict";

// The plugin for OpenCode 2: a provider whose base URL is a gateway of this process, logins, and a command. A missing part of
// the context only disables its own feature. Nothing here throws, since OpenCode 2 disables a plugin that does.

const { describe } = require("../accounts-toast");
const { overview } = require("../cli/overview");
const { AGENT_HEADER, PROVIDER, SERVICE, accountOf, adopt } = require("../logins");
const { loginMethods } = require("./login");
const { modelInfos, modelsOf } = require("./models");
const { acquire } = require("./shared");

/** OpenCode's built-in package. It installs other names from npm. */
const PACKAGE = "@opencode/ai/providers/openai-compatible";
const KEY_HEADER = "x-qwen-gateway-key";
const COMMAND = "qwen";

/** Runs a step and ignores its errors. */
async function attempt(step) {
  try {
    return await step();
  } catch {
    return undefined;
  }
}

/** See server.js. */
async function setup(context) {
  const directory = new Directory(context);
  await attempt(() => directory.open());
  return () => directory.close();
}

/** The plugin in one directory. */
class Directory {
  #context;
  #shared;
  /** The reason why there is no client. */
  #problem;
  #gateway;
  #models = [];
  /** The latest read of the accounts. */
  #looking = Promise.resolve(false);
  #labels = new Map();
  #methods;
  #ended = new AbortController();
  #registrations = [];
  #stopListening = () => {};
  /** The connection that was reported as needing a login. */
  #reported;

  constructor(context) {
    this.#context = context;
  }

  async open() {
    try {
      this.#shared = acquire(this.#context.options);
      this.#gateway = await this.#shared.gateway;
    } catch (error) {
      this.#problem = error;
    }
    // Before the first read, so that no change during it goes unnoticed.
    this.#stopListening = this.#shared?.listen((event) => this.#hear(event)) ?? this.#stopListening;
    if (this.#gateway) await this.#look();
    await this.#register("integration", (editor) => this.#addIntegration(editor));
    if (this.#gateway) await this.#register("provider", (editor) => this.#addProvider(editor));
    await this.#register("command", (editor) => this.#addCommand(editor));
    await this.#nameRequests();
    // Not awaited: OpenCode may only answer after all plugins are set up.
    if (this.#shared) void attempt(() => this.#adopt());
  }

  async close() {
    this.#ended.abort(new Error("OpenCode has unloaded the plugin."));
    this.#stopListening();
    for (const registration of this.#registrations) await attempt(() => registration?.dispose?.());
    await attempt(() => this.#shared?.leave());
    this.#shared = undefined;
  }

  async #register(domain, change) {
    const registration = await attempt(() =>
      this.#context[domain]?.transform?.((editor) => {
        try {
          change(editor);
        } catch {
          // Only this feature is missing then.
        }
      }),
    );
    this.#registrations.push(registration);
  }

  /** Tells the core which requests it must never shorten: summaries and titles, whose text replaces the conversation. */
  async #nameRequests() {
    const name = (request) =>
      attempt(() => {
        request.headers[AGENT_HEADER] = request.kind;
      });
    const hook = () => this.#context.session?.hook?.("model.request", name, { providerID: PROVIDER });
    this.#registrations.push(await attempt(hook));
  }

  /** Reads the accounts and their models, one read after another: an older result must not replace a newer one. */
  #look() {
    this.#looking = this.#looking.then(() => this.#read()).catch(() => false);
    return this.#looking;
  }

  /** Returns true if an account can be asked. */
  async #read() {
    const { client } = this.#shared;
    this.#models = (await attempt(() => modelsOf(client))) ?? this.#models;
    const accounts = (await attempt(() => client.accounts())) ?? [];
    this.#labels = new Map(accounts.map(({ id, label }) => [id, label]));
    return accounts.some(({ state, enabled }) => enabled && state === "ready");
  }

  #addIntegration(editor) {
    editor.update?.(PROVIDER, (integration) => {
      integration.name = "Qwen Code";
    });
    // OpenCode runs this again on changes of other plugins, which must not forget a login in progress.
    this.#methods ??= loginMethods({
      client: () => {
        if (this.#problem) throw this.#problem;
        return this.#shared.client;
      },
      labelOf: (access) => this.#labels.get(accountOf(access)),
      onAccount: ({ id, label }) => {
        this.#labels.set(id, label);
        void attempt(() => this.#refresh());
      },
      signal: this.#ended.signal,
    });
    for (const method of this.#methods) editor.method?.update?.(method);
  }

  #addProvider(editor) {
    const { url, key } = this.#gateway;
    editor.add?.({
      info: {
        id: PROVIDER,
        integrationID: PROVIDER,
        name: "Qwen Code",
        // The login of the qwen CLI is enough, so OpenCode needs none of its own.
        activation: "enabled",
        package: PACKAGE,
        settings: { baseURL: url, apiKey: SERVICE, provider: PROVIDER },
        // OpenCode puts its credential, a placeholder, into `Authorization`.
        headers: { [KEY_HEADER]: key },
      },
      models: modelInfos(PROVIDER, this.#models),
    });
  }

  #addCommand(editor) {
    editor.add?.({
      name: COMMAND,
      description: "Qwen accounts and their usage",
      execute: async (/** @type {{sessionID?: string}} */ { sessionID } = {}) => {
        const text = (await attempt(() => this.#describe())) ?? "The Qwen accounts could not be read.";
        await attempt(() => this.#context.session?.synthetic?.({ sessionID, text }));
      },
    });
  }

  async #describe() {
    if (this.#problem) return this.#problem.message;
    const notes = [];
    const accounts = await overview(this.#shared.client, notes);
    return [describe(accounts, Date.now()), ...notes, ...this.#shared.news].join("\n");
  }

  /** Updates OpenCode after an account was added here. */
  async #refresh() {
    await this.#look();
    await this.#report(undefined);
    await attempt(() => this.#context.provider?.reload?.());
  }

  /** Rereads the accounts after their files changed. */
  async #reread() {
    const before = JSON.stringify(this.#models);
    const isReady = await this.#look();
    if (isReady) await this.#report(undefined);
    if (JSON.stringify(this.#models) !== before) await this.#context.provider?.reload?.();
  }

  #hear({ type, message }) {
    if (type === "accounts-changed") void attempt(() => this.#reread());
    if (type === "needs-login") void attempt(() => this.#report({ status: "needs_auth", message }));
    if (type === "refreshed" || type === "ready") void attempt(() => this.#report(undefined));
  }

  /** Makes OpenCode ask for a login, or stop asking. Without a connection there is nothing to report. */
  async #report(status) {
    if (status === undefined && this.#reported === undefined) return;
    const domain = this.#context.integration?.connection;
    const connection = status === undefined ? this.#reported : await domain?.active?.(PROVIDER);
    this.#reported = status && connection;
    if (connection) await domain?.status?.({ integrationID: PROVIDER, connection, status });
  }

  /** Imports the tokens of a login that OpenCode 2 took over from OpenCode 1. */
  async #adopt() {
    const domain = this.#context.integration?.connection;
    const connection = await domain?.active?.(PROVIDER);
    if (!connection) return;
    await adopt(this.#shared.client, await domain.resolve?.(connection));
    await this.#refresh();
  }
}

module.exports = { setup };
