/**
 * Real OpenCode, each time in a new home, with its own Qwen server:
 *
 *     const host = await openHost(t, { config: { … } });
 *     const { code, stdout, error } = await host.chat("hello");
 *     host.server.seen("chat");
 *
 * With a server, requests to other hosts go to a proxy that doesn't exist, so only loopback works.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { startQwenServer } from "../../support/qwen-server.mjs";
import { assertNoLeaks, holdsSecret, isTokenStore } from "../../support/leaks.mjs";
import { Sandbox } from "../../support/sandbox.mjs";
import { kill, plain } from "./process.mjs";
import { Screen } from "./screen.mjs";
import { Service } from "./service.mjs";

export const CURRENT = "1.18.33";
/** One version of each further line. 1.14.34 and 1.14.41 load no CommonJS plugin at all. */
export const OTHERS = ["1.0.152", "1.1.65", "1.2.27", "1.3.2", "1.14.48", "1.15.13", "1.17.19", "1.18.34"];
export const LOGIN_LABEL = "Qwen Code (qwen.ai OAuth)";
export const CREDENTIALS = ".qwen/oauth_creds.json";
export const AUTH = ".local/share/opencode/auth.json";
export const STORE = ".qwen/oauth_accounts.json";

const packages = join(dirname(dirname(fileURLToPath(import.meta.url))), "node_modules");
export const root = join(packages, "../../..");
/** This checkout's plugin, for OpenCode's configuration. */
export const CHECKOUT = pathToFileURL(join(root, "index.js")).href;

const CONFIG = ".config/opencode";
const NO_SUCH_PROXY = "http://127.0.0.1:9";
const QUIET = ["AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "SHARE", "CLAUDE_CODE", "DEFAULT_PLUGINS"];

const isInstalled = process.platform === "linux" && process.arch === "x64";
/** The current version, for machines without the packages here. */
const { OPENCODE_BINARY } = process.env;

/** The reason why a version can't run on this machine, or false. */
function skipReason(version) {
  if (isInstalled || (version === CURRENT && OPENCODE_BINARY)) return false;
  const advice = version === CURRENT ? "; set OPENCODE_BINARY to one that runs on this machine" : "";
  return `OpenCode ${version} is installed on Linux with x64 alone${advice}`;
}

/** Options for `describe`. */
export const suite = (version = CURRENT) => ({ skip: skipReason(version) });

export function binary(version = CURRENT) {
  if (version === CURRENT && OPENCODE_BINARY) return OPENCODE_BINARY;
  const reason = skipReason(version);
  if (reason) throw new Error(`${reason}.`);
  const path = join(packages, `opencode-${version}`, "bin/opencode");
  assert.ok(existsSync(path), `${path} is missing: run \`npm ci --ignore-scripts\` in __test__/e2e`);
  return path;
}

/**
 * @param {import("node:test").TestContext} t
 * @param {object} [options] those of `Host`, and the following
 * @param {object} [options.server] options of the Qwen server
 */
export async function openHost(t, { server: serverOptions, ...options } = {}) {
  // An interrupted test run leaves no OpenCode behind.
  if (process.listenerCount("SIGTERM", exit) === 0)
    for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, exit);
  const server = await startQwenServer({ autoApprove: true, ...serverOptions });
  const host = new Host({ server, ...options });
  t.after(async () => {
    await Promise.all([host.close(), server.close()]);
  });
  return host;
}

function exit() {
  process.exit(1);
}

export class Host {
  #children = new Set();
  #screens = new Set();

  /**
   * @param {object} options
   * @param {object} [options.server] stands for Qwen
   * @param {string} [options.version] of OpenCode
   * @param {unknown} [options.plugin] plugin entry of its configuration
   * @param {object} [options.config] the rest of its configuration
   * @param {false | object} [options.login] the qwen CLI's login: `issueToken`'s argument, or false for none
   * @param {boolean} [options.hasCatalog] true: with OpenCode's own providers and models, which cost a third of a start
   * @param {Record<string, string>} [options.env]
   */
  constructor({
    server,
    version = CURRENT,
    plugin = CHECKOUT,
    config = {},
    login = {},
    hasCatalog = false,
    env = {},
  }) {
    this.server = server;
    this.version = version;
    this.sandbox = new Sandbox("opencode-home-");
    this.work = this.sandbox.makeDirectory("work");
    this.env = {
      ...this.sandbox.env,
      ...Object.fromEntries(QUIET.map((name) => [`OPENCODE_DISABLE_${name}`, "1"])),
      ...(!hasCatalog && { OPENCODE_MODELS_PATH: this.sandbox.write("models.json", {}) }),
      ...(server && {
        HTTP_PROXY: NO_SUCH_PROXY,
        HTTPS_PROXY: NO_SUCH_PROXY,
        NO_PROXY: "127.0.0.1,localhost",
        OPENCODE_QWEN_OAUTH_BASE_URL: server.url,
      }),
      ...env,
    };
    process.once("exit", this.#killAll);
    this.configure({ plugin: [plugin], ...config });
    if (login) this.sandbox.write(CREDENTIALS, server.issueToken(login));
  }

  /** Writes OpenCode's configuration, and the files that keep it from installing packages. */
  configure(config) {
    const manifest = { dependencies: { "@opencode-ai/plugin": this.version } };
    this.sandbox.write(`${CONFIG}/opencode.json`, {
      $schema: "https://opencode.ai/config.json",
      // Older versions ask another model for titles.
      small_model: "qwen-code/coder-model",
      ...config,
    });
    // The logs make a configuration directory of ~/.opencode.
    const directories = this.env.ENABLE_PLUGIN_REQUEST_LOGGING ? [CONFIG, ".opencode"] : [CONFIG];
    for (const directory of directories) {
      this.sandbox.write(`${directory}/package.json`, manifest);
      this.sandbox.write(`${directory}/package-lock.json`, {
        name: "config",
        lockfileVersion: 3,
        packages: { "": manifest },
      });
      this.sandbox.makeDirectory(`${directory}/node_modules`);
    }
  }

  /** Replaces all accounts by new logins with these names. The first is the active one, and the qwen CLI's. */
  replaceAccounts(...names) {
    const accounts = names.map((name) => {
      const token = this.server.issueToken({ account: name });
      return { id: `id-${name}`, label: name, token, resource_url: token.resource_url, createdAt: 1 };
    });
    const [{ id, token }] = accounts;
    this.sandbox.write(CREDENTIALS, token);
    this.sandbox.write(STORE, { version: 1, activeAccountId: id, credentialsAccountId: id, accounts });
  }

  /** Adds a key to the account store, by default a new one of the server's. */
  addKey({ id = "planned", plan = "coding-plan", models, ...fields } = {}) {
    const key = fields.key ?? this.server.addKey({ plan, account: id, models });
    const before = this.sandbox.has(STORE) ? this.sandbox.readJson(STORE) : { version: 1, accounts: [] };
    const record = { id, plan, key, baseUrl: this.server.apiBaseUrl, createdAt: 1, ...fields };
    const apiKeys = [...(before.apiKeys ?? []), record];
    this.sandbox.write(STORE, { activeAccountId: id, ...before, apiKeys });
    return key;
  }

  /**
   * Runs OpenCode to its end. `onText` gets the output as it comes.
   *
   * @returns {Promise<{ code: number | null, stdout: string, stderr: string, error?: string, ms: number }>} `stderr`
   *   without colours; `error` is the text after "Error: " in it
   */
  async run(args, { env = {}, timeoutMs = 120_000, onText } = {}) {
    const startedAt = Date.now();
    const child = this.#spawn(args, env);
    const output = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"]) {
      child[name].on("data", (data) => {
        output[name] += data;
        onText?.(plain(String(data)));
      });
    }
    const timer = setTimeout(() => kill(child), timeoutMs);
    const code = await new Promise((resolve) => child.on("close", resolve));
    clearTimeout(timer);
    const [stdout, stderr] = [plain(output.stdout), plain(output.stderr)];
    assert(!holdsSecret(Buffer.from(stdout + stderr)), "OpenCode says a secret of the server's");
    const error = /^Error: (.*)/ms.exec(stderr)?.[1].trim();
    return { code, stdout, stderr, error, ms: Date.now() - startedAt };
  }

  /** Sends one message in a new session. The title is set, so OpenCode does not ask for one. */
  async chat(text, { model = "coder-model", args = [], ...options } = {}) {
    return this.run(["run", "--title", "a title", "-m", `qwen-code/${model}`, text, ...args], options);
  }

  async login(options) {
    return this.run(["auth", "login", "-p", "qwen-code", "-m", LOGIN_LABEL], options);
  }

  /** Starts OpenCode without waiting for its end. */
  start(args) {
    return this.#spawn(args, {});
  }

  /** Starts OpenCode's own server, which does the work of its screen. It ends with the host. */
  async serve({ args = [] } = {}) {
    const child = this.#spawn(["serve", "--port", "0", ...args], {});
    let output = "";
    const url = await new Promise((resolve, reject) => {
      for (const stream of [child.stdout, child.stderr]) {
        stream.on("data", (data) => {
          output += data;
          const found = /listening on (http:\S+)/.exec(output);
          if (found) resolve(found[1]);
        });
      }
      child.on("close", () => reject(new Error(`opencode serve ended: ${output}`)));
    });
    const service = new Service(url, child, () => plain(output));
    await service.listen();
    return service;
  }

  /** Starts OpenCode's screen in a terminal of 110 by 35 characters, in tmux. */
  openScreen() {
    const screen = new Screen(binary(this.version), this);
    this.#screens.add(screen);
    return screen;
  }

  #spawn(args, env) {
    const child = spawn(binary(this.version), args, {
      cwd: this.work,
      env: { ...this.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
      detached: process.platform !== "win32",
    });
    this.#children.add(child);
    child.on("close", () => this.#children.delete(child));
    return child;
  }

  #killAll = () => {
    for (const child of this.#children) kill(child);
    for (const screen of this.#screens) screen.close();
  };

  async close() {
    process.off("exit", this.#killAll);
    const ended = [...this.#children].map((child) => new Promise((resolve) => child.on("close", resolve)));
    this.#killAll();
    await Promise.all(ended);
    try {
      assertNoLeaks(this.sandbox.home, (path) => isTokenStore(path) || this.sandbox.planted.has(path));
    } finally {
      await this.sandbox.remove();
    }
  }
}
