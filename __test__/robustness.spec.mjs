import assert from "node:assert/strict";
import { test } from "node:test";
import { inChild } from "./support/child.mjs";
import { assertQwenError, qwen, rejection, setUp } from "./support/harness.mjs";

const { createClient, pollDeviceToken, refreshAccessToken, requestDeviceAuthorization } = qwen;
const INVALID = "ERR_QWEN_INVALID_ARGUMENT";
const boom = () => {
  throw new Error("the caller's own");
};
/** An object that throws at any use. */
const hostile = () =>
  new Proxy(
    function () {},
    Object.fromEntries(Object.getOwnPropertyNames(Reflect).map((trap) => [trap, boom])),
  );
const throwing = (field) => Object.defineProperty({}, field, { get: boom, enumerable: true });
const revoked = () => {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
};

const NO_STRINGS = [null, 0, NaN, true, [], {}, Symbol("s"), 10n, () => {}, hostile(), revoked()];
const NO_TEXTS = [...NO_STRINGS, "", "  "];
const NO_DURATIONS = [null, NaN, Infinity, -Infinity, -1, 0, 0.5, 2 ** 31, 1e300, "1000", 5n, {}, hostile()];
const NO_OBJECTS = [null, 0, "", "text", true, Symbol("s"), 10n];
const NO_SIGNALS = [null, 0, "", "abort", true, {}, [], { aborted: false }, () => {}, hostile(), revoked()];
const NO_URLS = [
  "nowhere",
  "/path",
  "ftp://127.0.0.1",
  "http://example.com",
  "https://",
  "https://u:p@x.example",
  "https://a b",
];
const NO_BOOLEANS = [null, 0, 1, "", "true", {}, Symbol("s")];
const NO_FUNCTIONS = [null, 0, "", "text", {}, [], true];

/** Checks that each bad value is rejected with the field's name. */
async function refuses(call, field, values) {
  for (const value of values) {
    const error = await rejection(call(value), INVALID, { retryable: false });
    assert.ok(error.message.startsWith(field), `"${error.message}" does not name ${field}`);
  }
}

const oauthFields = {
  baseUrl: [...NO_TEXTS, ...NO_URLS],
  deviceAuthorizationEndpoint: [...NO_TEXTS, ...NO_URLS],
  tokenEndpoint: [...NO_TEXTS, ...NO_URLS],
  clientId: NO_TEXTS,
  scope: NO_TEXTS,
  timeoutMs: NO_DURATIONS,
  signal: NO_SIGNALS,
};
const AUTHORIZATION = {
  deviceCode: "d",
  userCode: "u",
  verificationUri: "https://x.example",
  verificationUriComplete: "https://x.example",
  expiresIn: 1,
  interval: 1,
  codeVerifier: "v",
};

const freeFunctions = {
  requestDeviceAuthorization,
  pollDeviceToken: (options) => pollDeviceToken(AUTHORIZATION, options),
  refreshAccessToken: (options) => refreshAccessToken("r", options),
};

for (const [name, call] of Object.entries(freeFunctions)) {
  test(`${name} refuses invalid options, and names them`, async () => {
    await refuses(call, "options", NO_OBJECTS);
    for (const [field, values] of Object.entries(oauthFields)) {
      await refuses((value) => call({ [field]: value }), field, values);
      await refuses(() => call(throwing(field)), field, [undefined]);
    }
    await rejection(call(hostile()), INVALID);
    await rejection(call(revoked()), INVALID);
  });
}

test("pollDeviceToken and refreshAccessToken refuse an invalid first argument", async () => {
  await refuses((value) => pollDeviceToken(value), "authorization", [
    undefined,
    ...NO_OBJECTS,
    {},
    hostile(),
  ]);
  const numbers = [null, NaN, Infinity, -1, "1", 5n, {}, undefined];
  for (const [field, values] of Object.entries({
    deviceCode: [undefined, ...NO_TEXTS],
    userCode: [undefined, ...NO_STRINGS],
    verificationUri: [undefined, ...NO_STRINGS],
    verificationUriComplete: [undefined, ...NO_STRINGS],
    codeVerifier: [undefined, ...NO_TEXTS],
    expiresIn: numbers,
    interval: numbers,
  })) {
    const call = (value) => pollDeviceToken({ ...AUTHORIZATION, [field]: value });
    await refuses(call, `authorization.${field}`, values);
  }
  await refuses((value) => refreshAccessToken(value), "refreshToken", [undefined, "", ...NO_STRINGS]);
});

test("createClient throws, and names the field", () => {
  const refused = (options, field) => {
    try {
      createClient(options).close();
    } catch (error) {
      assertQwenError(error, INVALID);
      assert.ok(error.message.startsWith(field), `"${error.message}" does not name ${field}`);
      return;
    }
    assert.fail(`createClient took ${field}`);
  };
  for (const value of NO_OBJECTS) refused(value, "options");
  for (const [field, values] of Object.entries({
    baseUrl: [
      ...NO_TEXTS,
      "ftp://x",
      "http://example.com",
      "https://u:p@x.example",
      "https://x/?y",
      "https://",
    ],
    qwenMode: NO_BOOLEANS,
    connectTimeoutMs: NO_DURATIONS,
    idleTimeoutMs: NO_DURATIONS,
    onEvent: NO_FUNCTIONS,
    oauth: NO_OBJECTS,
    env: NO_OBJECTS,
  })) {
    for (const value of values) refused({ [field]: value }, field);
    refused(throwing(field), field);
  }
  for (const [field, values] of Object.entries(oauthFields)) {
    for (const value of values) refused({ oauth: { [field]: value } }, `oauth.${field}`);
    refused({ oauth: throwing(field) }, `oauth.${field}`);
  }
  for (const value of [null, 1, {}, Symbol("s")]) refused({ env: { HOME: "/x", NAME: value } }, "env.NAME");
  refused({ env: throwing("HOME") }, "env.HOME");
  refused({ env: hostile() }, "env");
  refused({ env: revoked() }, "env");
  refused(hostile(), "env");
});

test("the methods of a client refuse invalid arguments", async (t) => {
  const { server, client, home } = await setUp(t);
  const before = home.bytes();
  for (const method of ["login", "getAccessToken"]) {
    await refuses((value) => client[method](value), "options", NO_OBJECTS);
    await refuses((value) => client[method]({ signal: value }), "signal", NO_SIGNALS);
    await rejection(client[method](hostile()), INVALID);
    await rejection(client[method](throwing("signal")), INVALID);
  }
  await refuses((value) => client.login({ openBrowser: value }), "openBrowser", NO_BOOLEANS);
  await refuses((value) => client.login({ onAuthorization: value }), "onAuthorization", NO_FUNCTIONS);
  await refuses((value) => client.getAccessToken({ accountId: value }), "accountId", [...NO_TEXTS, "nobody"]);
  const labels = [...NO_TEXTS, "a\nb", "\u001b[31m", "x".repeat(101)];
  await refuses((value) => client.login({ label: value }), "label", labels);
  await refuses((value) => client.login({ replace: value }), "replace", [...NO_TEXTS, "nobody"]);
  const addKey = (options) => client.addApiKey({ key: "sk-sp-1", ...options });
  await refuses((value) => client.addApiKey(value), "options", NO_OBJECTS);
  await refuses((key) => addKey({ key }), "key", [undefined, ...NO_TEXTS]);
  await refuses((value) => addKey({ label: value }), "label", labels);
  await refuses((region) => addKey({ region }), "region", NO_TEXTS);
  await refuses((check) => addKey({ check }), "check", NO_BOOLEANS);
  await refuses((value) => client.importAccounts(value), "path", NO_TEXTS);
  for (const method of ["setActiveAccount", "removeAccount", "updateAccount"])
    await refuses((value) => client[method](value, {}), "id", [undefined, ...NO_TEXTS, "nobody"]);
  const update = (changes) => client.updateAccount("qwen-cli", changes);
  await refuses(update, "changes", [undefined, ...NO_OBJECTS]);
  await refuses((label) => update({ label }), "changes.label", labels);
  await refuses((enabled) => update({ enabled }), "changes.enabled", NO_BOOLEANS);
  assert.equal(server.stats.requests, 0);
  assert.deepEqual([home.bytes(), home.files()], [before, ["oauth_creds.json"]]);
});

test("fetch refuses an invalid input or init", async (t) => {
  const { server, client } = await setUp(t);
  const url = `${client.baseUrl}/models`;
  const inputs = [
    undefined,
    null,
    0,
    {},
    [],
    Symbol("s"),
    10n,
    () => {},
    throwing("url"),
    hostile(),
    revoked(),
  ];
  await refuses((input) => client.fetch(input), "input", inputs);
  await refuses((value) => client.fetch(url, value), "init", NO_OBJECTS);
  await rejection(client.fetch(url, hostile()), INVALID);
  await rejection(client.fetch(url, revoked()), INVALID);
  for (const field of ["method", "headers", "body", "signal", "redirect"]) {
    const error = await rejection(client.fetch(url, throwing(field)), INVALID);
    assert.ok(error.message.startsWith(field), error.message);
    assert.equal(error.cause?.message, "the caller's own");
  }
  assert.equal(server.stats.requests, 0);
});

test("fetch refuses invalid methods, redirects, signals and headers", async (t) => {
  const { server, client } = await setUp(t);
  const post = (init) => client.fetch(`${client.baseUrl}/models`, { method: "POST", ...init });
  const methods = [0, {}, [], "", "A B", "A\r\nB", "A\u0000B", "\u00e9", "CONNECT", Symbol("s"), hostile()];
  await refuses((method) => post({ method }), "method", methods);
  const redirects = [0, {}, "", "elsewhere", Symbol("s"), hostile()];
  await refuses((value) => post({ redirect: value }), "redirect", redirects);
  const signals = NO_SIGNALS.filter((value) => value !== null);
  await refuses((signal) => post({ signal }), "signal", signals);
  const headers = [0, "", true, Symbol("s"), { x: {} }, { x: Symbol("s") }, hostile(), throwing("x"), [1]];
  await refuses((value) => post({ headers: value }), "headers", headers);
  assert.equal(server.stats.requests, 0);
});

test("half a signal is refused, and its call does not keep the process alive", async (t) => {
  const { server, home } = await setUp(t);
  const errors = await inChild(
    t,
    "node",
    async ({ load, report, data }) => {
      const client = (await load()).createClient(data);
      const boom = () => {
        throw new Error("the caller's own");
      };
      const whole = { aborted: false, throwIfAborted() {}, addEventListener() {}, removeEventListener() {} };
      const halves = [
        { ...whole, addEventListener: boom },
        { ...whole, removeEventListener: undefined },
        { aborted: false, addEventListener() {} },
      ];
      const calls = halves.flatMap((signal) => [
        client.fetch(`${client.baseUrl}/models`, { signal }),
        client.getAccessToken({ signal }),
      ]);
      const settled = await Promise.allSettled(calls);
      report(settled.map(({ value, reason }) => (reason ? [reason.code, reason.message] : [String(value)])));
    },
    { data: { env: home.env, oauth: { baseUrl: server.url } } },
  );
  for (const [code, message] of errors) {
    assert.equal(code, INVALID);
    assert.match(message, /^signal/);
  }
  assert.equal(server.stats.requests, 0);
});

test("fetch refuses bodies that it can't read", async (t) => {
  const { server, client } = await setUp(t);
  const url = `${client.baseUrl}/models`;
  const detached = new ArrayBuffer(8);
  const view = new Uint8Array(detached);
  structuredClone(detached, { transfer: [detached] });
  const locked = new Blob(["x"]).stream();
  locked.getReader();
  const failing = new ReadableStream({ pull: boom });
  const bodies = [...NO_STRINGS.filter((value) => value !== null), detached, view, locked, failing];
  await refuses((body) => client.fetch(url, { method: "POST", body }), "body", bodies);
  const used = new Request(url, { method: "POST", body: "x" });
  await used.text();
  await rejection(client.fetch(used), INVALID);
  assert.equal(server.stats.requests, 0);
});

test("unusual but valid arguments are accepted", async (t) => {
  const { client } = await setUp(t);
  const url = `${client.baseUrl}/models`;
  for (const init of [
    undefined,
    {},
    { headers: null, body: null, signal: null },
    { method: undefined, extra: 1 },
  ]) {
    assert.equal((await client.fetch(url, init)).status, 200);
  }
  for (const options of [undefined, {}, { signal: undefined, unknown: Symbol("s") }]) {
    assert.ok((await client.getAccessToken(options)).accessToken);
  }
  createClient({ env: { HOME: "/x", EMPTY: "", NOTHING: undefined }, oauth: {}, onEvent: undefined }).close();
});

test("a signal whose listener can't be removed causes no error", async (t) => {
  const { client } = await setUp(t);
  const signal = {
    aborted: false,
    throwIfAborted() {},
    addEventListener() {},
    removeEventListener: boom,
  };
  const calls = Array.from({ length: 20 }, (_, index) =>
    index % 2 === 0 ? client.getAccessToken({ signal }) : client.getAccessToken(),
  );
  for (const { accessToken } of await Promise.all(calls)) assert.ok(accessToken);
  const response = await client.fetch(`${client.baseUrl}/models`, { signal });
  assert.ok(await response.json());
});

test("a listener that throws affects no call", async (t) => {
  const { server, settings } = await setUp(t, { token: { expiresIn: -60 } });
  const client = createClient({ ...settings, onEvent: boom });
  t.after(() => client.close());
  assert.ok((await client.getAccessToken()).accessToken);
  assert.equal(server.stats.redemptions, 1);
});
