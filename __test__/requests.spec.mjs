import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { chat, rejection, setUp, startClient, temporaryHome } from "./support/harness.mjs";
import { startRecorder } from "./support/recorder.mjs";

const CACHED = { type: "ephemeral" };
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

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

test("a token is never sent to another host", async (t) => {
  const { server, client } = await setUp(t, { client: { baseUrl: undefined } });
  const base = client.baseUrl;
  for (const input of [
    "https://example.com/v1/models",
    "https://portal.qwen.ai.evil.example/v1/models",
    "https://dashscope.aliyuncs.com/other/models",
    "https://dashscope.aliyuncs.com:444/compatible-mode/v1/models",
    "http://dashscope.aliyuncs.com/compatible-mode/v1/models",
    "https://dashscope.aliyuncs.com@evil.example/compatible-mode/v1/models",
    `https://user:pass@dashscope.aliyuncs.com/compatible-mode/v1/models`,
    `${base}x/models`,
    `${base}/../models`,
    `${base}/%2e%2e/models`,
    `${server.url}/models`,
    `http://localhost:${server.port}/v1/models`,
    "/v1/models",
    "models",
    "",
    "file:///etc/passwd",
    "data:text/plain,hi",
  ]) {
    await rejection(client.fetch(input), "ERR_QWEN_INVALID_ARGUMENT");
  }
  assert.equal(server.stats.requests, 0);
});

test("a forbidden resource_url stops the request", async (t) => {
  const { server, home, client } = await setUp(t);
  for (const resource_url of [
    "http://portal.qwen.ai",
    "ftp://x",
    "https://u:p@x.example",
    "https://x/?y=1",
  ]) {
    home.write({ ...server.issueToken(), resource_url });
    await rejection(client.fetch(`${client.baseUrl}/models`), "ERR_QWEN_CREDENTIALS_INVALID", {
      path: home.path,
    });
  }
  assert.equal(server.stats.requests, 0);
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

const REQUEST = {
  model: "coder-model",
  stream: true,
  messages: [
    { role: "developer", content: "Be terse." },
    { role: "user", content: "one" },
    { role: "system", content: [{ type: "text", text: "Be kind." }] },
    { role: "user", content: "two", name: "ada" },
  ],
  tools: [
    { type: "function", function: { name: "a", parameters: {} } },
    { type: "function", function: { name: "b", parameters: {} } },
  ],
  metadata: { mine: 1 },
  max_tokens: 100_000,
  seed: 12345678901234567890n.toString(),
};

test("a chat is sent in the portal's form", async (t) => {
  const { server, client } = await setUp(t);
  await (await chat(client, "", REQUEST)).text();
  await (await chat(client, "", { ...REQUEST, stream: false })).text();
  const [streamed, plain] = server.seen("chat").map(({ body }) => body);
  assert.deepEqual(server.violations, []);
  const text = (content, cache_control) => ({
    type: "text",
    text: content,
    ...(cache_control && { cache_control }),
  });
  assert.deepEqual(streamed.messages, [
    { role: "system", content: [text("Be terse."), text("Be kind.", CACHED)] },
    { role: "user", content: "one" },
    { role: "user", content: [text("two", CACHED)], name: "ada" },
  ]);
  assert.deepEqual(streamed.tools, [REQUEST.tools[0], { ...REQUEST.tools[1], cache_control: CACHED }]);
  assert.deepEqual(plain.messages[0], streamed.messages[0]);
  assert.deepEqual([plain.messages.at(-1), plain.tools], [REQUEST.messages.at(-1), REQUEST.tools]);
  const { sessionId, promptId, mine } = streamed.metadata;
  assert.ok(sessionId && promptId && mine === 1);
  assert.equal(plain.metadata.sessionId, sessionId);
  assert.notEqual(plain.metadata.promptId, promptId);
  assert.deepEqual([streamed.max_tokens, streamed.seed, streamed.stream], [65_536, REQUEST.seed, true]);
  assert.deepEqual([streamed.vl_high_resolution_images, streamed.preserve_thinking], [true, true]);
  const image = { type: "image_url", image_url: { url: "data:image/png;base64,aaaa" } };
  await chat(client, [image], { model: "vision-model" });
  assert.equal(server.seen("chat").at(-1).body.vl_high_resolution_images, true);
});

test("output limits are lowered to the model's cap, and never raised or invented", async (t) => {
  const { server, client } = await setUp(t, { server: { strict: false } });
  const sent = async (fields) => {
    await chat(client, "hi", fields);
    const { max_tokens, max_completion_tokens } = server.seen("chat").at(-1).body;
    return [max_tokens, max_completion_tokens];
  };
  for (const [model, cap] of [
    ["coder-model", 65_536],
    ["vision-model", 8_192],
    ["qwen3.7-plus", 65_536],
    ["qwen3-max-2026-01-23", 32_768],
    ["qwen3.9-next", 65_536],
    ["qwen-plus", 32_768],
  ]) {
    const over = { model, max_tokens: cap + 1, max_completion_tokens: 10_000_000 };
    assert.deepEqual(await sent(over), [cap, cap], model);
    assert.deepEqual(await sent({ model, max_tokens: cap, max_completion_tokens: 5 }), [cap, 5], model);
    assert.deepEqual(await sent({ model }), [undefined, undefined], model);
  }
  assert.deepEqual(await sent({ model: "gpt-x", max_tokens: 1e9 }), [1e9, undefined]);
  assert.deepEqual(await sent({ max_tokens: null, max_completion_tokens: "many" }), [null, "many"]);
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

test("an invalid switch is reported once, and its default is used", async (t) => {
  const { client, events } = await setUp(t, { env: { QWEN_MODE: "perhaps" } });
  await (await chat(client, "hi")).text();
  assert.deepEqual(
    events.map(({ type }) => type),
    ["config"],
  );
  assert.match(events[0].message, /QWEN_MODE/);
});

test("only chats are shaped", async (t) => {
  const { recorder, client } = await recorded(t);
  const body = ' {"model": "coder-model", "max_tokens": 1e9, "input": "x"} ';
  for (const path of [
    "/embeddings",
    "/completions",
    "/chat/completions/other",
    "/models/x?y=/chat/completions",
  ]) {
    await client.fetch(`${client.baseUrl}${path}`, { method: "POST", body });
    assert.equal(recorder.requests.at(-1).body.toString(), body);
  }
  for (const odd of ["not json", "[]", '"text"', "{", ""]) {
    await client.fetch(`${client.baseUrl}/chat/completions`, { method: "POST", body: odd });
    assert.equal(recorder.requests.at(-1).body.toString(), odd);
  }
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

test("thirty megabytes are sent whole, shaped or not", async (t) => {
  const { client, recorder, post } = await recorded(t);
  const bytes = Buffer.alloc(30_000_000, "abcdefg");
  assert.equal(sha256((await post(bytes)).body), sha256(bytes));
  const text = bytes.toString();
  await chat(client, text, { stream: true });
  const { messages, metadata } = JSON.parse(recorder.requests.at(-1).body);
  assert.equal(sha256(messages[0].content[0].text), sha256(bytes));
  assert.ok(metadata.promptId);
});
