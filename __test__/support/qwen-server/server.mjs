import http from "node:http";
import https from "node:https";
import { Accounts } from "./accounts.mjs";
import { Devices } from "./devices.mjs";
import { RequestLog } from "./request-log.mjs";
import { requestListener } from "./router.mjs";
import { Scripts } from "./script.mjs";

const DEFAULTS = {
  accounts: ["alice", "bob"],
  autoApprove: undefined,
  autoApproveAccount: undefined,
  clientId: "f0304373b74a44d2b584a3fb70ca9e56",
  deviceExpiresIn: 900,
  expiresIn: 21_600,
  freeTier: true,
  interval: 1,
  pace: 0,
  strict: true,
};
const START_ONLY = ["port", "tls", "onLog", "keepRequests"];

const freshStats = () => ({
  connections: 0,
  requests: 0,
  deviceRequests: 0,
  tokenRequests: 0,
  polls: 0,
  logins: 0,
  refreshes: 0,
  redemptions: 0,
  doubleRedemptions: 0,
  replays: 0,
  models: 0,
  chats: 0,
  embeddings: 0,
  unauthorized: 0,
  quotaRefusals: 0,
  closedByClient: 0,
  bytesSent: 0,
});

function httpServer(tls, listener) {
  // A request may take as long as a test needs.
  // Idle connections stay open as on other servers: Node's default of 5 s would often end one just as it is reused.
  const options = { ...tls, requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 65_000 };
  return tls ? https.createServer(options, listener) : http.createServer(options, listener);
}

/** See `startQwenServer`, which makes one and starts it. */
export class QwenServer {
  #http;
  #core;
  #scheme;
  #sockets = new Map();
  #stats = freshStats();

  constructor(options = {}) {
    const { tls, onLog, keepRequests = 10_000 } = options;
    this.options = { ...DEFAULTS };
    this.set(Object.fromEntries(Object.entries(options).filter(([name]) => !START_ONLY.includes(name))));
    const accounts = new Accounts(this.options, this.#stats, () => this.url);
    const server = this;
    this.#core = {
      server,
      options: this.options,
      stats: this.#stats,
      accounts,
      devices: new Devices(this.options, accounts.issued),
      scripts: new Scripts(),
      log: new RequestLog(onLog, keepRequests),
      violations: [],
      failures: [],
      closing: false,
      get url() {
        return server.url;
      },
      rawSocketOf: (socket) => this.#sockets.get(socket.remotePort) ?? socket,
    };
    const listener = requestListener(this.#core);
    this.#http = httpServer(tls, listener);
    this.#scheme = tls ? "https" : "http";
    this.#http.on("connection", (socket) => this.#track(socket));
    // Clients may reset connections or reject the certificate: that is not an error.
    for (const name of ["clientError", "tlsClientError"]) {
      this.#http.on(name, (_, socket) => socket.destroy());
    }
  }

  #track(socket) {
    const { remotePort } = socket;
    this.#stats.connections += 1;
    this.#sockets.set(remotePort, socket);
    socket.on("error", () => {});
    socket.on("close", () => {
      if (this.#sockets.get(remotePort) === socket) this.#sockets.delete(remotePort);
    });
  }

  async listen({ port = 0 } = {}) {
    await new Promise((resolve, reject) => {
      this.#http.once("error", reject);
      this.#http.listen(port, "127.0.0.1", () => {
        this.#http.off("error", reject);
        resolve();
      });
    });
    this.port = this.#http.address().port;
    return this;
  }

  get url() {
    return `${this.#scheme}://127.0.0.1:${this.port}`;
  }

  get apiBaseUrl() {
    return `${this.url}/v1`;
  }

  /** The base URL of a plan's region here, which refuses other keys. */
  placeUrl(plan, region) {
    return `${this.url}/plans/${plan}/${region}/v1`;
  }

  get requests() {
    return this.#core.log.entries;
  }

  get issued() {
    return this.#core.accounts.issued;
  }

  get violations() {
    return this.#core.violations;
  }

  get failures() {
    return this.#core.failures;
  }

  get stats() {
    return { ...this.#stats, openSockets: this.#sockets.size };
  }

  get pendingUserCodes() {
    return this.#core.devices.pending().map(({ userCode }) => userCode);
  }

  set(options = {}) {
    for (const [name, value] of Object.entries(options)) {
      if (!Object.hasOwn(DEFAULTS, name)) {
        const known = [...Object.keys(DEFAULTS), ...START_ONLY];
        throw new TypeError(`unknown option "${name}", not one of ${known.join(", ")}`);
      }
      if (value !== undefined) this.options[name] = value;
    }
  }

  script(endpoint, steps) {
    this.#core.scripts.add(endpoint, steps);
  }

  clearScripts(endpoint) {
    this.#core.scripts.clear(endpoint);
  }

  approve(userCode, { account } = {}) {
    this.#core.devices.approve(userCode, { account });
  }

  deny(userCode) {
    this.#core.devices.deny(userCode);
  }

  issueToken({ account = this.options.accounts[0], expiresIn, ...given } = {}) {
    const answer = this.#core.accounts.login(account, { expiresIn, given });
    const { access_token, refresh_token, token_type, resource_url } = answer;
    return {
      access_token,
      refresh_token,
      token_type,
      resource_url,
      expiry_date: Math.round(Date.now() + answer.expires_in * 1000),
    };
  }

  addKey(given) {
    return this.#core.accounts.addKey(given);
  }

  revokeAccess(token) {
    return this.#core.accounts.revokeAccess(token);
  }

  revokeAllAccess(account) {
    this.#core.accounts.revokeAllAccess(account);
  }

  revokeRefresh(token) {
    return this.#core.accounts.revokeRefresh(token);
  }

  setQuota(account, left, refusal) {
    this.#core.accounts.setQuota(account, left, refusal);
  }

  seen(endpoint) {
    return this.requests.filter((entry) => entry.endpoint === endpoint);
  }

  waitFor(what, options) {
    return this.#core.log.waitFor(what, options);
  }

  redactedRequests() {
    return this.#core.log.redacted(this.issued);
  }

  reset() {
    this.clearScripts();
    this.#core.log.clear();
    this.violations.length = 0;
    this.failures.length = 0;
    Object.assign(this.#stats, freshStats());
  }

  async close() {
    this.#core.closing = true;
    this.#core.devices.close();
    const closed = new Promise((resolve) => this.#http.close(resolve));
    for (const socket of this.#sockets.values()) socket.destroy();
    await closed;
    this.#core.log.close();
  }
}
