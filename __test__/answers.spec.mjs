import assert from "node:assert/strict";
import { test } from "node:test";
import { chat, EXPIRED, rejection, setUp } from "./support/harness.mjs";
import { recordedClient } from "./support/recorder.mjs";

/** A client of a server with scripted answers. */
async function answering(t, answer) {
  const { recorder, client } = await recordedClient(t, (_, res) => answer(res));
  const get = (init) => client.fetch(`${client.baseUrl}/models`, init);
  return { client, requests: recorder.requests, get };
}

test("a response behaves as a Response", async (t) => {
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
  await rejection(get({ method: "TRACE" }), "ERR_QWEN_INVALID_ARGUMENT");
  const withBody = client.fetch(`${client.baseUrl}/models`, { method: "GET", body: "x" });
  await rejection(withBody, "ERR_QWEN_INVALID_ARGUMENT");
  const empty = await answering(t, (res) => res.writeHead(200).end());
  assert.equal(await (await empty.get()).text(), "");
});

test("header values come back byte for byte", async (t) => {
  const { get } = await answering(t, (res) => {
    res.setHeader("x-latin", "caf\u00e9");
    // If they were sent together with a text, Node would encode the headers as UTF-8.
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

test("a closed client refuses calls and ends open ones", async (t) => {
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
