import assert from "node:assert/strict";
import { test } from "node:test";
import {
  chat,
  EXPIRED,
  rejection,
  setUp,
  startClient,
  startServer,
  temporaryHome,
} from "./support/harness.mjs";
import { startRecorder } from "./support/recorder.mjs";

const errorOf = async (response) => (await response.json()).error;

/** A client whose account lives on a server that answers as it is told. */
async function answering(t, answer) {
  const { url, requests } = await startRecorder(t, (_, res) => answer(res));
  const home = temporaryHome(t);
  home.write({ access_token: "a-token", refresh_token: "r", expiry_date: Date.now() + 3_600_000 });
  const { client } = startClient(t, { env: home.env, baseUrl: url });
  return { client, requests, get: (init) => client.fetch(`${client.baseUrl}/models`, init) };
}

test("a refused token is refreshed once, and the same request sent again", async (t) => {
  const { server, home, client, events } = await setUp(t);
  const old = home.read();
  server.revokeAccess(old.access_token);
  const response = await chat(client, "hi", { stream: true, max_tokens: 100_000 });
  assert.equal(response.status, 200);
  assert.match(await response.text(), /\[DONE\]/);
  const [first, second] = server.seen("chat");
  assert.deepEqual([first.status, second.status, server.stats.chats], [401, 200, 2]);
  assert.equal(first.rawBody, second.rawBody);
  assert.equal(second.headers.authorization, `Bearer ${home.read().access_token}`);
  assert.deepEqual([server.stats.redemptions, home.read().access_token === old.access_token], [1, false]);
  assert.deepEqual(
    events.map(({ type }) => type),
    ["refreshed"],
  );
  assert.equal(response.headers.get("x-qwen-error"), null);
});

test("403 answers that are about the token are treated like 401", async (t) => {
  for (const message of ["invalid access token", "Token expired", "access denied"]) {
    const { server, client } = await setUp(t);
    server.script("chat", [{ status: 403, body: { error: { code: "forbidden", message } } }]);
    assert.equal((await chat(client, "hi")).status, 200, message);
    assert.deepEqual([server.stats.chats, server.stats.redemptions], [2, 1], message);
  }
});

test("many requests whose token was refused share one refresh", async (t) => {
  const { server, home, client } = await setUp(t);
  server.revokeAccess(home.read().access_token);
  const responses = await Promise.all(Array.from({ length: 20 }, () => chat(client, "hi")));
  assert.deepEqual([...new Set(responses.map(({ status }) => status))], [200]);
  assert.deepEqual([server.stats.redemptions, server.stats.doubleRedemptions], [1, 0]);
  assert.ok(server.stats.chats <= 40);
});

test("a token that is refused again is the caller's 401, with our advice", async (t) => {
  const { server, client, events } = await setUp(t);
  server.script("chat", [{ do: "token_rejected", times: 2, headers: { "x-request-id": "r1" } }]);
  const response = await chat(client, "hi");
  assert.equal(response.status, 401);
  assert.equal(response.headers.get("x-qwen-error"), "ERR_QWEN_FREE_TIER_DISCONTINUED");
  assert.equal(response.headers.get("x-request-id"), "r1");
  const length = response.headers.get("content-length");
  const error = await errorOf(response);
  assert.ok(length === null || Number(length) > error.message.length);
  assert.equal(error.code, "invalid_api_key");
  assert.match(error.message, /[Ll]og in/);
  assert.deepEqual([server.stats.chats, server.stats.redemptions], [2, 1]);
  const { state, lastError } = await client.activeAccount();
  assert.deepEqual([state, lastError.code], ["needs-login", "ERR_QWEN_FREE_TIER_DISCONTINUED"]);
  assert.deepEqual(
    events.map(({ type }) => type),
    ["refreshed", "needs-login"],
  );
  assert.equal((await chat(client, "hi")).status, 200, "the API may have changed its mind");
  assert.equal((await client.activeAccount()).state, "ready");
});

test("a refused token whose refresh brings no verdict is no 401", async (t) => {
  const { server, home, client } = await setUp(t);
  const before = home.bytes();
  server.revokeAccess(home.read().access_token);
  server.script("token", [{ do: "html", times: Infinity }]);
  await rejection(chat(client, "hi"), "ERR_QWEN_REFRESH_UNAVAILABLE", { retryable: true });
  assert.deepEqual([server.stats.chats, home.bytes()], [1, before]);
});

test("a refused token whose refresh token is refused too is a 401 that says so", async (t) => {
  const { server, home, client } = await setUp(t);
  const { access_token, refresh_token } = home.read();
  server.revokeAccess(access_token);
  server.revokeRefresh(refresh_token);
  const response = await chat(client, "hi");
  assert.equal(response.status, 401);
  assert.equal(response.headers.get("x-qwen-error"), "ERR_QWEN_REFRESH_TOKEN_INVALID");
  assert.match((await errorOf(response)).message, /[Ll]og in/);
  const { state, lastError } = await client.activeAccount();
  assert.deepEqual([state, lastError.code], ["needs-login", "ERR_QWEN_REFRESH_TOKEN_INVALID"]);
});

test("a 401 of any shape is told apart and explained", async (t) => {
  for (const step of [
    { status: 401, body: "" },
    { status: 401, body: "<html>" },
    { status: 401, body: { error: "text" } },
    { status: 401, body: "x".repeat(300_000) },
    { do: "binary", status: 401 },
  ]) {
    const { server, client } = await setUp(t);
    server.script("chat", [{ ...step, times: 2 }]);
    const response = await chat(client, "hi");
    assert.deepEqual([response.status, server.stats.chats], [401, 2]);
    assert.match((await errorOf(response)).message, /[Ll]og in/);
    assert.equal(response.headers.get("content-type"), "application/json");
  }
});

const UNTOUCHED = {
  "a bad request": { status: 400, body: { error: { message: "no", code: "bad" } } },
  "a payment that is due": { status: 402, body: "pay" },
  "a model that is not allowed": {
    status: 403,
    body: { error: { code: "model_not_allowed", message: "no" } },
  },
  "a long body of a 403": { status: 403, body: "y".repeat(200_000) },
  "an unknown model": { status: 404, body: { error: { code: "model_not_found" } } },
  "a long rate limit": { do: "rate_limit", retryAfter: 3600 },
  "an error of the server": { do: "server_error", status: 500, headers: { "retry-after": "7" } },
  "an overloaded server": { do: "server_error", status: 503 },
  "a page of a gateway": { do: "html", status: 502 },
  "a status that nobody knows": { status: 599, body: "?" },
};

for (const [what, step] of Object.entries(UNTOUCHED)) {
  test(`${what} comes back as it was sent, after one request`, async (t) => {
    const { server, client } = await setUp(t);
    server.script("chat", [step]);
    const response = await chat(client, "hi");
    const body = await response.text();
    assert.equal(response.status, server.seen("chat")[0].status);
    if (typeof step.body === "string") assert.equal(body, step.body);
    else if (step.body) assert.deepEqual(JSON.parse(body), step.body);
    else assert.ok(body.length > 20);
    const retryAfter = step.retryAfter ?? step.headers?.["retry-after"];
    assert.equal(response.headers.get("retry-after"), retryAfter === undefined ? null : String(retryAfter));
    assert.equal(Buffer.byteLength(body), server.seen("chat")[0].bytes);
    assert.deepEqual([server.stats.chats, server.stats.tokenRequests], [1, 0]);
  });
}

test("a redirect on the same origin is followed with the token and the body", async (t) => {
  const { server, client } = await setUp(t);
  server.script("chat", [
    { do: "redirect", location: "/compatible-mode/v1/chat/completions?moved=1" },
    { do: "redirect", status: 308, location: `${server.apiBaseUrl}/chat/completions` },
  ]);
  const response = await chat(client, "hi");
  assert.equal(response.status, 200);
  assert.equal(response.url, `${server.apiBaseUrl}/chat/completions`);
  const bodies = new Set(server.seen("chat").map(({ method, rawBody }) => `${method} ${rawBody}`));
  assert.deepEqual([server.stats.chats, bodies.size], [3, 1]);
  server.script("models", [{ do: "redirect", status: 302, location: "/compatible-mode/v1/models" }]);
  assert.equal((await client.fetch(`${client.baseUrl}/models`)).status, 200);
  assert.deepEqual(server.violations, []);
});

test("a redirect to another origin comes back as it is, and takes no token there", async (t) => {
  const [{ server, client }, other] = [await setUp(t), await startServer(t)];
  const elsewhere = [
    `${other.apiBaseUrl}/chat/completions`,
    `//127.0.0.1:${other.port}/v1/chat/completions`,
    `http://localhost:${server.port}/v1/chat/completions`,
  ];
  for (const location of elsewhere) {
    server.script("chat", [{ do: "redirect", location }]);
    const response = await chat(client, "hi");
    assert.deepEqual([response.status, response.headers.get("location")], [307, location]);
  }
  assert.deepEqual([other.stats.requests, server.stats.chats], [0, elsewhere.length]);
});

test("redirect: manual gives the redirect, redirect: error rejects", async (t) => {
  const { server, client } = await setUp(t);
  const location = `${server.apiBaseUrl}/chat/completions`;
  server.script("chat", [{ do: "redirect", location, times: 2 }]);
  const manual = await chat(client, "hi", {}, { redirect: "manual" });
  assert.deepEqual([manual.status, manual.headers.get("location")], [307, location]);
  const refused = chat(client, "hi", {}, { redirect: "error" });
  await rejection(refused, "ERR_QWEN_NETWORK", { status: 307, retryable: false });
  assert.equal(server.stats.chats, 2);
});

test("one call never costs more than four requests", async (t) => {
  const cases = [
    [{ do: "redirect", location: "/v1/chat/completions", times: Infinity }],
    [
      { do: "redirect", location: "/v1/chat/completions" },
      "token_rejected",
      { do: "redirect", location: "/v1/chat/completions", times: Infinity },
    ],
    [{ do: "token_rejected", times: Infinity }],
  ];
  for (const steps of cases) {
    const { server, client } = await setUp(t);
    server.script("chat", steps);
    await chat(client, "hi").catch((error) => assert.equal(error.code, "ERR_QWEN_NETWORK"));
    assert.ok(server.stats.chats <= 4, `${server.stats.chats} requests`);
  }
});

test("a response is a Response in every way that clients look at", async (t) => {
  const { server, client } = await setUp(t);
  const response = await chat(client, "hi");
  assert.ok(response instanceof Response);
  const { status, statusText, ok, url, bodyUsed, redirected, type } = response;
  assert.deepEqual([status, statusText, ok, bodyUsed], [200, "OK", true, false]);
  assert.equal(url, `${server.apiBaseUrl}/chat/completions`);
  assert.deepEqual([typeof redirected, typeof type], ["boolean", "string"]);
  assert.equal(response.headers.get("content-type"), "application/json");
  assert.equal(response.headers.get("x-qwen-account"), (await client.activeAccount()).id);
  const copy = response.clone();
  assert.deepEqual(await response.json(), JSON.parse(await copy.text()));
  assert.equal(response.bodyUsed, true);
  await assert.rejects(response.text(), TypeError);
  const text = await (await chat(client, "hi")).text();
  for (const read of ["arrayBuffer", "blob"]) {
    const again = await (await chat(client, "hi"))[read]();
    assert.equal(again.byteLength ?? again.size, text.length);
  }
});

test("statuses without a body, HEAD and empty bodies", async (t) => {
  for (const status of [204, 205, 304]) {
    const { get } = await answering(t, (res) => res.writeHead(status).end());
    const response = await get();
    assert.deepEqual([response.status, response.body, await response.text()], [status, null, ""]);
  }
  const { get, client, requests } = await answering(t, (res) => {
    res.writeHead(200, { "content-length": "7", "x-many": ["a", "b"], "set-cookie": ["a=1", "b=2"] });
    res.end("content");
  });
  const head = await get({ method: "head" });
  assert.deepEqual([head.body, head.headers.get("content-length")], [null, "7"]);
  const response = await get();
  assert.deepEqual(
    [response.headers.get("x-many"), response.headers.getSetCookie()],
    ["a, b", ["a=1", "b=2"]],
  );
  assert.equal(await response.text(), "content");
  for (const method of ["delete", "PUT", "PATCH", "OPTIONS", "PURGE"]) await get({ method });
  const methods = requests.slice(2).map(({ method }) => method);
  assert.deepEqual(methods, ["DELETE", "PUT", "PATCH", "OPTIONS", "PURGE"]);
  for (const method of ["TRACE", "CONNECT", "GE T", ""]) {
    await rejection(get({ method }), "ERR_QWEN_INVALID_ARGUMENT");
  }
  const withBody = client.fetch(`${client.baseUrl}/models`, { method: "GET", body: "x" });
  await rejection(withBody, "ERR_QWEN_INVALID_ARGUMENT");
  const empty = await answering(t, (res) => res.writeHead(200).end());
  assert.equal(await (await empty.get()).text(), "");
});

test("header values come back byte for byte", async (t) => {
  const { get } = await answering(t, (res) => {
    res.setHeader("x-latin", "caf\u00e9");
    // Together with a text, Node would send the headers as UTF-8.
    res.end(Buffer.from("{}"));
  });
  assert.equal((await get()).headers.get("x-latin"), "caf\u00e9");
});

test("an abort before, during and after the wait for the headers gives its reason", async (t) => {
  const { server, client } = await setUp(t);
  await assert.rejects(chat(client, "hi", {}, { signal: AbortSignal.abort() }), { name: "AbortError" });
  assert.equal(server.stats.requests, 0);
  for (const reason of [undefined, new Error("mine"), "text", 0]) {
    server.script("chat", ["hang"]);
    const controller = new AbortController();
    const { length } = server.seen("chat");
    const asked = chat(client, "hi", {}, { signal: controller.signal });
    const entry = await server.waitFor("chat", { count: length + 1 });
    controller.abort(reason);
    const given = await asked.catch((error) => error);
    assert.equal(given, controller.signal.reason);
    await server.waitFor((it) => it.id === entry.id && it.closedByClient);
  }
  const aborted = new Request(`${client.baseUrl}/models`, { signal: AbortSignal.abort() });
  await assert.rejects(client.fetch(aborted), { name: "AbortError" });
});

test("a client that was closed takes no more calls and ends those under way", async (t) => {
  const { server, client } = await setUp(t, { token: EXPIRED });
  server.script("chat", ["hang"]);
  const asked = chat(client, "hi");
  await server.waitFor("chat");
  client.close();
  client.close();
  await assert.rejects(asked, { name: "AbortError" });
  await server.waitFor((entry) => entry.endpoint === "chat" && entry.closedByClient);
  await rejection(chat(client, "hi"), "ERR_QWEN_INVALID_ARGUMENT");
  await rejection(client.accounts(), "ERR_QWEN_INVALID_ARGUMENT");
});
