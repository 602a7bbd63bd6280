// Shared parts of the specs: a private home directory, a client of the local server, and checks of rejections. The
// machine's own configuration plays no part.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import qwen from "opencode-qwen-cli-auth/api";
import { assertNoLeaks } from "./leaks.mjs";
import { SECRET_PREFIX, startQwenServer } from "./qwen-server.mjs";
import { removeDirectory } from "./remove.mjs";

export { qwen };

for (const name of Object.keys(process.env)) {
  if (
    /^(?:(?:HTTPS?|ALL|NO)_PROXY|OPENCODE_QWEN_.*|QWEN_.*|NODE_EXTRA_CA_CERTS|SSL_CERT_FILE)$/i.test(name)
  ) {
    delete process.env[name];
  }
}

/** A home directory that is removed when the test ends. */
export function temporaryHome(t) {
  const home = mkdtempSync(join(tmpdir(), "qwen-auth-spec-"));
  t.after(async () => {
    try {
      assertNoLeaks(home);
    } finally {
      await removeDirectory(home);
    }
  });
  return homeAt(home);
}

/** The paths in a home directory, and access to its credentials. */
function homeAt(home) {
  const directory = join(home, ".qwen");
  const path = join(directory, "oauth_creds.json");
  return {
    home,
    directory,
    path,
    env: { HOME: home, USERPROFILE: home },
    write(contents) {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      const isRaw = typeof contents === "string" || contents instanceof Uint8Array;
      writeFileSync(path, isRaw ? contents : JSON.stringify(contents, null, 2), { mode: 0o600 });
      return readFileSync(path);
    },
    bytes: () => readFileSync(path),
    read: () => JSON.parse(readFileSync(path, "utf8")),
    /** Lists the files with account data. A store that only notes the server of the one login holds none. */
    files() {
      const isNote = isEmptyStore(join(directory, "oauth_accounts.json"));
      const counts = (name) => !isNote || !/^oauth_accounts\.(?:json|flock)$/u.test(name);
      return readdirSync(directory).filter(counts).sort();
    },
  };
}

function isEmptyStore(path) {
  try {
    const { accounts, apiKeys } = JSON.parse(readFileSync(path, "utf8"));
    return accounts.length === 0 && apiKeys === undefined;
  } catch (error) {
    return error.code === "ENOENT";
  }
}

export async function startServer(t, options) {
  const server = await startQwenServer(options);
  t.after(() => server.close());
  return server;
}

/** A client that is closed when the test ends; `events` collects its events. */
export function startClient(t, { env, ...options } = {}) {
  const events = [];
  const client = qwen.createClient({ env, onEvent: (event) => events.push(event), ...options });
  t.after(() => {
    client.close();
    assert.ok(!JSON.stringify(events).includes(SECRET_PREFIX), "an event holds a secret");
  });
  return { client, events };
}

/**
 * Starts a server, and makes a home directory and a client for it.
 *
 * @param {object} [options]
 * @param {object} [options.server] options of the server
 * @param {object | null} [options.token] argument of `issueToken`; null: no login
 * @param {object} [options.client] options of the client
 * @param {object} [options.env] further variables of its environment
 */
export async function setUp(t, { server: serverOptions, token = {}, client: clientOptions, env } = {}) {
  const server = await startServer(t, serverOptions);
  const home = temporaryHome(t);
  if (token !== null) home.write(server.issueToken(token));
  const settings = {
    env: { ...home.env, ...env },
    oauth: { baseUrl: server.url },
    ...clientOptions,
  };
  const { client, events } = startClient(t, settings);
  return { server, home, client, events, settings };
}

export const EXPIRED = { expiresIn: -60 };

/** A scripted step that waits until `open` is called. */
export function gate() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { open, step: { do: "delay", ms: () => opened } };
}

/** Like `setUp`, with an expired login, and a server that answers its refresh once `open` is called. */
export async function midway(t, options) {
  const { open, step } = gate();
  const set = await setUp(t, { token: EXPIRED, ...options });
  set.server.script("token", [step]);
  return { ...set, open };
}

export function chat(client, text, fields = {}, init = {}) {
  return client.fetch(`${client.baseUrl}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: text }], ...fields }),
    ...init,
  });
}

/**
 * Waits for a rejection with this code, and checks the promises of every rejection.
 *
 * @returns {Promise<Error>}
 */
export async function rejection(promise, code, fields = {}) {
  const error = await Promise.resolve(promise).then(
    (value) => assert.fail(`resolved with ${describe(value)} instead of rejecting with ${code}`),
    (reason) => reason,
  );
  if (error?.code === "ERR_ASSERTION") throw error;
  assertQwenError(error, code, fields);
  return error;
}

export function assertQwenError(error, code, fields = {}) {
  assert.ok(error instanceof Error, `${code} was expected, not ${describe(error)}`);
  assert.equal(error.code, code, error.stack);
  assert.equal(error.name, "QwenAuthError");
  assert.ok(error instanceof qwen.QwenAuthError, "it is not an instance of the exported class");
  assert.ok(error.message.length > 10 && error.message.split("\n").length <= 2, error.message);
  for (const [name, value] of Object.entries(fields))
    assert.deepEqual(error[name], value, `${name}: ${error.stack}`);
  const everything = `${error.stack}${JSON.stringify(error)}${error.cause?.stack ?? ""}`;
  assert.ok(!everything.includes(SECRET_PREFIX), "the error holds a secret");
}

function describe(value) {
  if (value instanceof Response) return `a response ${value.status}`;
  return String(JSON.stringify(value) ?? value);
}

/** Polls until a condition holds. Only a hang reaches the limit. */
export async function until(condition, what, timeoutMs = 60_000) {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) assert.fail(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A signal that aborts when the test ends, even if it fails. */
export function endOf(t) {
  const controller = new AbortController();
  t.after(() => controller.abort());
  return controller.signal;
}
