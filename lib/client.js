"use strict";

const { QwenAuthError, invalidArgument } = require("./errors");
const { call, createNativeClient, finishAtExit, isMainThread, listen, stayOpen } = require("./native");
const validate = require("./validate");

/** Modules that only requests need, loaded at the first request. */
let requests;

/** Returns `undefined` if the directory has been removed. */
function workingDirectory() {
  try {
    return process.cwd();
  } catch {
    return undefined;
  }
}

/** See `QwenClient` in index.d.ts. */
class QwenClient {
  #native;
  #release;
  #settings;
  #env;
  #isClosed = false;
  /** Functions that abort the calls in progress. */
  #scope = new Set();
  /** Functions that release the open gateways. */
  #gateways = new Set();

  /** @param {boolean} forOpenCode true if OpenCode must not retry errors */
  constructor(options, forOpenCode) {
    const { env = validate.environment(process.env, "process.env"), oauth = {}, onEvent, ...rest } = options;
    const { signal: _, ...oauthSettings } = oauth;
    const settings = { ...rest, oauth: oauthSettings, forOpenCode };
    const created = createNativeClient(settings, env, onEvent);
    this.#settings = settings;
    this.#env = env;
    this.#native = created.client;
    this.#release = created.release;
    this.baseUrl = this.#native.baseUrl;
    this.fetch = (input, init) => this.#fetch(input, init);
    Object.defineProperties(this, { baseUrl: { writable: false }, fetch: { writable: false } });
  }

  async #fetch(input, init) {
    requests ??= { ...require("./request"), ...require("./response") };
    const { url, method, head, body, utf8Body, signal } = await requests.readRequest(input, init);
    finishAtExit();
    const utcOffsetMinutes = -new Date().getTimezoneOffset();
    const answer = await this.#call(
      (id) => this.#native.fetch(id, url, head, utcOffsetMinutes, body, utf8Body),
      { signal },
    );
    return requests.toResponse(answer, {
      method,
      signal,
      scope: this.#scope,
      forOpenCode: this.#settings.forOpenCode,
    });
  }

  async login(options) {
    const { signal, onAuthorization, ...settings } = validate.options(options, "options", {
      label: validate.label,
      replace: validate.text,
      openBrowser: validate.boolean,
      signal: validate.signal,
      onAuthorization: validate.callback,
    });
    return this.#call((id) => this.#native.login(id, settings), { signal, onProgress: onAuthorization });
  }

  async addApiKey(options) {
    const settings = validate.keyOptions(options);
    return this.#call((id) => this.#native.addApiKey(id, settings));
  }

  async models(options) {
    const { refresh = false } = validate.options(options, "options", { refresh: validate.boolean });
    const models = await this.#call((id) => this.#native.models(id, refresh));
    for (const model of models) delete model.host;
    return models;
  }

  /** Absolute paths of the files that hold accounts and models. The first is the one of the qwen CLI. */
  get accountFiles() {
    return this.#native.accountFiles;
  }

  /** The models of `models()`. The field `host` of each holds more facts for OpenCode. */
  async hostModels() {
    return this.#call((id) => this.#native.models(id, false));
  }

  /** Imports the tokens of a login that OpenCode kept itself, if there is no credentials file. */
  async adopt({ access, refresh, expires }) {
    const tokens = {
      access: validate.text(access, "access"),
      refresh: validate.text(refresh, "refresh"),
      expires,
    };
    return this.#call((id) => this.#native.adopt(id, { ...tokens, expires: Number(expires) || 0 }));
  }

  async importAccounts(path) {
    if (path === undefined) return this.#importAll();
    const checked = validate.text(path, "path");
    return this.#call((id) => this.#native.importAccounts(id, checked));
  }

  /**
   * Returns what `importAccounts(path)` would import, in the form of {@link foundKeys}, with `login` for a login.
   * Changes nothing.
   */
  async previewImport(path) {
    const checked = validate.text(path, "path");
    return this.#call((id) => this.#native.previewImport(id, checked));
  }

  async #importAll() {
    const results = await this.importFound();
    const accounts = results.flatMap(({ account }) => account ?? []);
    const failed = results.find(({ error }) => error !== undefined);
    if (accounts.length === 0 && failed !== undefined) throw new QwenAuthError(failed.error);
    return accounts;
  }

  async findCredentials() {
    const found = await this.foundKeys();
    return found.map(({ credential }) => credential);
  }

  /**
   * Returns the results of `findCredentials` as `credential`, each with `id`, `alsoIn`, `foreign` (true if the server is not
   * an API host of a plan) and `takenWithAll` (false if it must be chosen by itself).
   */
  async foundKeys() {
    return this.#call((id) => this.#native.findCredentials(id, workingDirectory()));
  }

  /**
   * Imports found keys, one after the other.
   *
   * @param {string[]} [chosen] ids of {@link foundKeys}. The default is all new keys, except those that a project's file
   *   sends to its own server
   * @returns {Promise<{ found: object, account?: object, error?: object }[]>}
   */
  async importFound(chosen) {
    return this.#call((id) => this.#native.importFound(id, workingDirectory(), chosen));
  }

  async accounts() {
    return this.#call((id) => this.#native.accounts(id));
  }

  async activeAccount() {
    const accounts = await this.accounts();
    return accounts.find((account) => account.active) ?? null;
  }

  async usage() {
    const utcOffsetMinutes = -new Date().getTimezoneOffset();
    return this.#call((id) => this.#native.usage(id, utcOffsetMinutes));
  }

  async setActiveAccount(accountId) {
    const checked = validate.text(accountId, "id");
    return this.#call((id) => this.#native.setActiveAccount(id, checked));
  }

  async updateAccount(accountId, changes) {
    const checked = validate.text(accountId, "id");
    const update = validate.accountChanges(changes);
    return this.#call((id) => this.#native.updateAccount(id, checked, update));
  }

  async removeAccount(accountId, options) {
    const checked = validate.text(accountId, "id");
    const { revoke = false } = validate.options(options, "options", { revoke: validate.boolean });
    return this.#call((id) => this.#native.removeAccount(id, checked, revoke));
  }

  async doctor() {
    this.#expectOpen();
    return require("./doctor").examine(this.#settings, this.#env, { scope: this.#scope });
  }

  /** Records that OpenCode has an entry of this plugin. */
  async noteHostLogin() {
    await this.#call((id) => this.#native.noteHostLogin(id));
  }

  /** Resolves with true if OpenCode has had an entry of this plugin. */
  async hadHostLogin() {
    return this.#call((id) => this.#native.hadHostLogin(id));
  }

  async getAccessToken(options) {
    const { accountId, signal } = validate.options(options, "options", {
      accountId: validate.text,
      signal: validate.signal,
    });
    finishAtExit();
    return this.#call((id) => this.#native.accessToken(id, accountId), { signal });
  }

  /**
   * @param {object} [options] as in index.d.ts
   * @param {object} [internal]
   * @param {(entry: object) => void} [internal.onRequest] called at the end of each request
   * @param {boolean} [internal.isBackground] true if the process may end while the gateway is open
   */
  async serve(options, { onRequest, isBackground = false } = {}) {
    const { port = 0, key } = validate.options(options, "options", {
      port: validate.port,
      key: validate.text,
    });
    finishAtExit();
    const listener = onRequest && listen(onRequest);
    const utcOffsetMinutes = -new Date().getTimezoneOffset();
    let opened;
    try {
      opened = await this.#call((id) => this.#native.serve(id, port, key, listener?.id, utcOffsetMinutes));
    } catch (error) {
      listener?.release();
      throw error;
    }
    const letGo = stayOpen(this, isBackground);
    return this.#gateway(opened, () => {
      letGo();
      listener?.release();
    });
  }

  #gateway({ id: gateway, url, key }, onClosed) {
    let closed;
    const release = () => {
      this.#gateways.delete(release);
      onClosed();
    };
    this.#gateways.add(release);
    const close = async () => {
      if (this.#gateways.has(release)) {
        await call((_bridge, id) => this.#native.closeGateway(id, gateway)).finally(release);
      }
    };
    return { url, key, close: () => (closed ??= close()) };
  }

  close() {
    this.#isClosed = true;
    for (const release of [...this.#gateways]) release();
    this.#release();
    const reason = new DOMException("The Qwen client was closed.", "AbortError");
    for (const abort of [...this.#scope]) abort(reason);
    // Bun crashes if a worker blocks at its end.
    this.#native.flush(isMainThread());
    this.#native.close();
  }

  #call(start, options) {
    this.#expectOpen();
    return call((_bridge, id) => start(id), { ...options, scope: this.#scope });
  }

  #expectOpen() {
    if (this.#isClosed) throw invalidArgument("The client", "is closed; make another one");
  }
}

module.exports = { QwenClient };
