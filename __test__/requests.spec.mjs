import assert from "node:assert/strict";
import { test } from "node:test";
import { rejection, setUp, startClient, temporaryHome } from "./support/harness.mjs";
import { startRecorder } from "./support/recorder.mjs";

/** A client whose account lives on a server that records every byte. */
async function recorded(t, { answer, ...options } = {}) {
  const recorder = await startRecorder(t, answer);
  const home = temporaryHome(t);
  home.write({ access_token: "a-token", refresh_token: "r", expiry_date: Date.now() + 3_600_000 });
  const { client } = startClient(t, { env: home.env, baseUrl: recorder.url, ...options });
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

test("an option or a variable sets the base URL, in any of its forms", async (t) => {
  const { server, settings } = await setUp(t);
  for (const value of [server.url, `${server.url}/`, `${server.apiBaseUrl}//`]) {
    const env = { ...settings.env, OPENCODE_QWEN_BASE_URL: value };
    for (const options of [{ env }, { baseUrl: value }]) {
      const { client } = startClient(t, { ...settings, ...options });
      assert.equal(client.baseUrl, server.apiBaseUrl);
      assert.equal((await client.fetch(`${client.baseUrl}/models`)).status, 200);
    }
  }
});

test("the package's headers win, others stay, and connection headers are dropped", async (t) => {
  const { recorder, client } = await recorded(t);
  const sent = {
    Authorization: "Bearer mine",
    "User-Agent": "mine",
    "X-DashScope-AuthType": "openai",
    "x-dashscope-useragent": "mine",
    Accept: "text/event-stream",
    "X-Custom": "caf\u00e9",
    "X-Number": 7,
    "X-Undefined": undefined,
    Host: "evil.example",
    "Content-Length": "3",
    "Transfer-Encoding": "chunked",
    "Accept-Encoding": "gzip",
    Connection: "close",
  };
  const forms = [sent, Object.entries(sent).filter(([, value]) => value !== undefined)];
  for (const headers of forms) {
    await client.fetch(`${client.baseUrl}/files`, { method: "POST", headers, body: "hello" });
    const got = recorder.requests.at(-1).headers;
    assert.equal(got.authorization, "Bearer a-token");
    const ours = /^opencode-qwen-cli-auth\/\d+\.\d+\.\d+/;
    assert.match(got["user-agent"], ours);
    assert.equal(got["x-dashscope-useragent"], got["user-agent"]);
    assert.equal(got["x-dashscope-authtype"], "qwen-oauth");
    assert.equal(got["x-dashscope-cachecontrol"], "enable");
    assert.deepEqual([got.accept, got["x-custom"], got["x-number"]], ["text/event-stream", "caf\u00e9", "7"]);
    assert.deepEqual([got["x-undefined"], got["transfer-encoding"]], [undefined, undefined]);
    assert.equal(got.host, new URL(recorder.url).host);
    assert.equal(got["content-length"], "5");
    assert.notEqual(got["accept-encoding"], "gzip");
  }
  const instance = new Headers([
    ["x-many", "a"],
    ["x-many", "b"],
  ]);
  await client.fetch(`${client.baseUrl}/files`, { headers: instance });
  assert.equal(recorder.requests.at(-1).headers["x-many"], "a, b");
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

test("a header that fetch rejects is rejected", async (t) => {
  const { recorder, client } = await recorded(t);
  for (const headers of [{ "x-bad\r\n": "a" }, [["x-bad"]], [["x-bad", "a", "b"]]]) {
    await rejection(client.fetch(`${client.baseUrl}/models`, { headers }), "ERR_QWEN_INVALID_ARGUMENT");
  }
  assert.equal(recorder.requests.length, 0);
});

test("without QWEN_MODE only the limits of a chat are changed", async (t) => {
  const body =
    ' { "model":"coder-model",\n "messages":[{"role":"developer","content":"\\u00e9"}], "big":1e400 }';
  const post = async (client) => client.fetch(`${client.baseUrl}/chat/completions`, { method: "POST", body });
  const settings = [
    [{ QWEN_MODE: "0" }, {}, false],
    [{ QWEN_MODE: "off" }, {}, false],
    [{ QWEN_MODE: "1" }, { qwenMode: false }, false],
    [{ QWEN_MODE: "0" }, { qwenMode: true }, true],
    [{ QWEN_MODE: "" }, {}, true],
    [{ QWEN_MODE: "yes" }, {}, true],
  ];
  for (const [env, client, shaped] of settings) {
    const set = await setUp(t, { server: { strict: false }, env, client });
    await post(set.client);
    const { rawBody } = set.server.seen("chat")[0];
    assert.equal(/"metadata"/.test(rawBody), shaped, JSON.stringify([env, client]));
    assert.equal(/"role":"developer"/.test(rawBody), !shaped);
    assert.match(rawBody, /"big":1e400/);
  }
  const { client, server } = await setUp(t, { server: { strict: false }, env: { QWEN_MODE: "0" } });
  const capped = JSON.stringify({ model: "coder-model", max_tokens: 70_000, messages: [] });
  await client.fetch(`${client.baseUrl}/chat/completions`, { method: "POST", body: capped });
  assert.equal(server.seen("chat")[0].rawBody, capped.replace("70000", "65536"));
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
