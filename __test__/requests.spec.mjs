import assert from "node:assert/strict";
import { test } from "node:test";
import { rejection, setUp } from "./support/harness.mjs";
import { recordedClient } from "./support/recorder.mjs";

/** A client of a server that records every byte. */
async function recorded(t) {
  const { recorder, client } = await recordedClient(t);
  const post = async (body, init = {}) => {
    await client.fetch(`${client.baseUrl}/files`, { method: "POST", body, ...init });
    return recorder.requests.at(-1);
  };
  return { recorder, client, post };
}

test("requests below the base URL go to the account's own host", async (t) => {
  const { server, client } = await setUp(t);
  assert.equal(client.baseUrl, "https://dashscope.aliyuncs.com/compatible-mode/v1");
  assert.throws(() => {
    client.baseUrl = "https://elsewhere.example";
  }, TypeError);
  const { fetch } = client;
  const models = `${client.baseUrl}/models`;
  const inputs = [
    models,
    new URL(models),
    new Request(models),
    `${server.apiBaseUrl}/models`,
    `${models}#top`,
  ];
  for (const input of inputs) {
    const response = await fetch(input);
    assert.equal(response.status, 200);
    assert.equal(response.url, `${server.apiBaseUrl}/models`);
  }
  await fetch(`${client.baseUrl}/models?a=1&b=%20%26&c`);
  assert.deepEqual(server.requests.at(-1).query, { a: "1", b: " &", c: "" });
  assert.ok(server.requests.every(({ headers }) => headers.host === new URL(server.url).host));
  assert.deepEqual([server.violations, server.stats.models], [[], inputs.length + 1]);
});

test("headers are taken from an object, from pairs and from Headers", async (t) => {
  const { recorder, client } = await recorded(t);
  const sent = {
    Authorization: "Bearer mine",
    "X-Custom": "caf\u00e9",
    "X-Number": 7,
    "X-Undefined": undefined,
  };
  const pairs = Object.entries(sent).filter(([, value]) => value !== undefined);
  for (const headers of [sent, pairs, new Headers(pairs)]) {
    if (headers instanceof Headers) headers.append("x-number", "8");
    await client.fetch(`${client.baseUrl}/files`, { method: "POST", headers, body: "hello" });
    const got = recorder.requests.at(-1).headers;
    assert.equal(got.authorization, "Bearer a-token");
    assert.equal(got["x-custom"], "caf\u00e9");
    assert.equal(got["x-number"], headers instanceof Headers ? "7, 8" : "7");
    assert.equal(got["x-undefined"], undefined);
  }
});

test("a header with a line break is refused", async (t) => {
  const { recorder, client } = await recorded(t);
  for (const headers of [
    { "x-bad": "a\r\nx-injected: 1" },
    { "x-bad": "a\nb" },
    { "x-bad": "a\u0000b" },
    { "x-bad": "a\u0000x-injected\u00001" },
    { "x-bad\u0000a": "x-injected" },
    { "x-bad": "\u{1f680}" },
    { "x bad": "a" },
    { "": "a" },
    [["x-bad", {}]],
    "x-bad: a",
    { "x-bad\r\n": "a" },
    [["x-bad"]],
    [["x-bad", "a", "b"]],
  ]) {
    const error = await rejection(
      client.fetch(`${client.baseUrl}/models`, { headers }),
      "ERR_QWEN_INVALID_ARGUMENT",
    );
    assert.match(error.message, /headers/);
    assert.doesNotMatch(error.message, /injected/);
  }
  assert.equal(recorder.requests.length, 0);
});

test("bodies of every kind arrive byte for byte", async (t) => {
  const { client, recorder, post } = await recorded(t);
  const bytes = Uint8Array.from({ length: 300 }, (_, index) => (index * 7) % 256);
  const padded = new Uint8Array(310);
  padded.set(bytes, 5);
  const stream = () => new Blob([bytes]).stream();
  const url = `${client.baseUrl}/files`;
  for (const [name, body] of Object.entries({
    buffer: Buffer.from(bytes),
    view: padded.subarray(5, 305),
    words: new Uint16Array(bytes.buffer.slice(0), 0, 150),
    dataView: new DataView(padded.buffer, 5, 300),
    arrayBuffer: bytes.buffer,
    blob: new Blob([bytes.subarray(0, 100), bytes.subarray(100)]),
    stream: stream(),
  })) {
    const entry = await post(body);
    assert.deepEqual(entry.body, Buffer.from(bytes), name);
    assert.equal(entry.headers["content-type"], undefined, name);
  }
  const request = new Request(url, { method: "POST", body: bytes, headers: { "x-own": "1" } });
  await client.fetch(request);
  assert.deepEqual(recorder.requests.at(-1).body, Buffer.from(bytes));
  assert.equal(recorder.requests.at(-1).headers["x-own"], "1");
  await client.fetch(new Request(url, { method: "POST", body: stream(), duplex: "half" }), {
    method: "PUT",
    body: "instead",
  });
  const replaced = recorder.requests.at(-1);
  assert.deepEqual([replaced.method, replaced.body.toString()], ["PUT", "instead"]);
  assert.equal((await post("\u00e9\ud800")).body.toString(), "\u00e9\ufffd");
  assert.equal((await post("x")).headers["content-type"], "text/plain;charset=UTF-8");
  assert.equal((await post(new Blob(["x"], { type: "a/b" }))).headers["content-type"], "a/b");
  const typed = { headers: { "Content-Type": "c/d" } };
  assert.equal((await post(new Blob(["x"], { type: "a/b" }), typed)).headers["content-type"], "c/d");
  const parameters = await post(new URLSearchParams({ a: "1 2", b: "&" }));
  assert.equal(parameters.body.toString(), "a=1+2&b=%26");
  assert.match(parameters.headers["content-type"], /^application\/x-www-form-urlencoded/);
  const form = new FormData();
  form.set("field", "value");
  form.set("file", new Blob([bytes]), "name.bin");
  const multipart = await post(form);
  const parsed = await new Response(multipart.body, { headers: multipart.headers }).formData();
  assert.equal(parsed.get("field"), "value");
  assert.deepEqual(new Uint8Array(await parsed.get("file").arrayBuffer()), bytes);
  for (const empty of [undefined, null]) assert.equal((await post(empty)).body.length, 0);
});

test("a body is copied when fetch is called", async (t) => {
  const { client, recorder } = await recorded(t);
  const body = new Uint8Array(8).fill(1);
  const sent = client.fetch(`${client.baseUrl}/files`, { method: "POST", body });
  body.fill(2);
  await sent;
  assert.deepEqual([...recorder.requests[0].body], [1, 1, 1, 1, 1, 1, 1, 1]);
});
