import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http2 from "node:http2";
import https from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { SECRET_PREFIX, startQwenServer } from "./support/qwen-server.mjs";
import {
  clientOf,
  contentOf,
  events,
  failure,
  offer,
  qwenTest,
  stream,
  SYSTEM,
} from "./support/qwen-server/spec-client.mjs";
import "./support/qwen-server/spec-steps.mjs";

const PROGRAM = fileURLToPath(new URL("./support/qwen-server.mjs", import.meta.url));

qwenTest("device flow: pending, approval page, tokens, one use", { interval: 2 }, async (server, client) => {
  const { body: device } = await client.device();
  assert.equal(device.interval, 2);
  assert.match(device.user_code, /^[B-Z]{4}-[B-Z]{4}$/);
  assert.equal((await client.poll(device.device_code)).body.error, "authorization_pending");
  const page = await fetch(device.verification_uri_complete);
  assert.match(await page.text(), /Approve.*Deny/s);
  const decision = new URLSearchParams({ user_code: device.user_code, account: "bob", decision: "approve" });
  assert.equal((await fetch(device.verification_uri, { method: "POST", body: decision })).status, 200);
  assert.equal((await client.poll(device.device_code, "x".repeat(43))).body.error, "invalid_grant");
  const { body } = await client.poll(device.device_code);
  assert.equal(body.resource_url, server.url);
  assert.equal(body.token_type, "Bearer");
  assert.equal((await client.poll(device.device_code)).status, 401);
  assert.ok(
    [device.device_code, body.access_token, body.refresh_token].every((it) => server.issued.includes(it)),
  );
  assert.equal((await client.get("models", { authorization: `Bearer ${body.access_token}` })).status, 200);
  assert.equal(server.seen("models")[0].account, "bob");
  assert.equal((await fetch(`${server.url}/authorize?user_code=${device.user_code}`)).status, 400);
  assert.equal((await fetch(device.verification_uri_complete)).status, 410);
});

qwenTest(
  "device flow: deny, expire, auto-approve, slow down",
  { enforceInterval: true },
  async (server, client) => {
    const denied = (await client.device()).body;
    server.deny(denied.user_code);
    assert.equal((await client.poll(denied.device_code)).body.error, "access_denied");
    const late = (await client.device()).body;
    server.expire();
    assert.equal((await client.poll(late.device_code)).body.error, "expired_token");
    const fast = (await client.device()).body;
    await client.poll(fast.device_code);
    const tooFast = await client.poll(fast.device_code);
    assert.deepEqual([tooFast.status, tooFast.body.error], [429, "slow_down"]);
    server.set({ autoApprove: 20, autoApproveAccount: "bob", enforceInterval: false, interval: null });
    const auto = (await client.device()).body;
    assert.equal("interval" in auto, false);
    assert.equal((await client.poll(auto.device_code)).status, 400);
    await new Promise((resolve) => setTimeout(resolve, 40));
    assert.equal((await client.poll(auto.device_code)).status, 200);
    assert.equal(server.stats.logins, 1);
  },
);

qwenTest("malformed OAuth requests are refused and noted", {}, async (server, client) => {
  assert.equal((await client.device({}, {})).status, 400);
  assert.equal((await client.device({ client_id: "other" })).status, 400);
  assert.equal((await client.device({ scope: "" })).status, 400);
  assert.equal((await client.device({ code_challenge_method: "plain" })).status, 400);
  const headers = { "content-type": "application/json" };
  const url = `${server.url}/api/v1/oauth2/token`;
  server.script("token", ["html"]);
  assert.equal((await fetch(url, { method: "POST", headers, body: "{}" })).status, 400);
  assert.equal(server.scriptLeft("token"), 1);
  assert.equal(server.violations.length, 5);
});

qwenTest("refresh tokens rotate, and are single use", {}, async (server, client) => {
  const first = await client.refresh();
  assert.notEqual(first.body.refresh_token, client.tokens.refresh_token);
  const again = await client.refresh();
  assert.deepEqual([again.status, again.body.error], [400, "invalid_request"]);
  assert.equal((await client.refresh(first.body.refresh_token)).status, 400);
  assert.equal((await client.get("models")).status, 401);
  assert.equal((await client.refresh("unknown")).status, 400);
  const { redemptions, doubleRedemptions, refreshes } = server.stats;
  assert.deepEqual(
    { redemptions, doubleRedemptions, refreshes },
    { redemptions: 1, doubleRedemptions: 1, refreshes: 4 },
  );
});

qwenTest(
  "token answers: options, overrides",
  { rotate: false, resourceUrl: "host" },
  async (server, client) => {
    const { body } = await client.refresh();
    assert.equal("refresh_token" in body, false);
    assert.equal(body.resource_url, `127.0.0.1:${server.port}`);
    server.set({ resourceUrl: "none", rotate: true, graceMs: 1000 });
    server.script("token", [{ override: { expires_in: "soon", scope: undefined }, omit: ["refresh_token"] }]);
    const odd = (await client.refresh()).body;
    assert.deepEqual(Object.keys(odd).sort(), ["access_token", "expires_in", "token_type"]);
    assert.equal(odd.expires_in, "soon");
    assert.equal((await client.refresh()).status, 200);
    server.revokeRefresh(client.tokens.refresh_token);
    assert.equal((await client.refresh()).status, 400);
  },
);

qwenTest("access tokens expire, are revoked, are adopted", {}, async (server, client) => {
  const status = async (token) => (await client.get("models", { authorization: `Bearer ${token}` })).status;
  const short = server.issueToken({ account: "alice", expiresIn: 0.05 });
  assert.ok(Math.abs(short.expiry_date - Date.now()) < 1000);
  assert.equal(await status(short.access_token), 200);
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.equal(await status(short.access_token), 401);
  server.issueToken({ access_token: "at-1", refresh_token: "rt-1", account: "carol" });
  assert.equal(await status("at-1"), 200);
  server.revokeAccess("at-1");
  assert.equal(await status("at-1"), 401);
  server.revokeAllAccess("bob");
  assert.equal(await status(client.tokens.access_token), 200);
  server.revokeAllAccess();
  const refused = await client.chat("hi");
  assert.equal(refused.status, 401);
  assert.equal((await refused.json()).error.code, "invalid_api_key");
  assert.equal(server.seen("chat")[0].account, "alice");
  assert.equal((await client.refresh("rt-1")).status, 200);
});

qwenTest("API keys: their header, their models", {}, async (server, client) => {
  const key = server.addKey({ plan: "coding-plan", account: "work" });
  assert.match(key, /^sk-sp-/);
  const headers = { authorization: `Bearer ${key}`, "x-dashscope-authtype": "openai" };
  const ids = (await (await client.get("models", headers)).json()).data.map(({ id }) => id);
  assert.ok(ids.includes("qwen3-coder-plus") && !ids.includes("coder-model"));
  assert.equal((await client.chat("hi", { model: ids[0] }, { headers })).status, 200);
  assert.equal((await client.chat("hi", {}, { headers })).status, 404);
  assert.equal((await client.get("models", { authorization: `Bearer ${key}` })).status, 400);
});

qwenTest("places: their keys, their models, their refusals", {}, async (server) => {
  const ask = async (key, { plan, region }, path, body, agent = "opencode/1.18.33") => {
    const headers = {
      authorization: `Bearer ${key}`,
      "content-type": "application/json",
      "user-agent": agent,
      "x-dashscope-useragent": "test/1",
      "x-dashscope-authtype": "openai",
    };
    const init = body ? { method: "POST", body: JSON.stringify(body) } : {};
    const response = await fetch(`${server.placeUrl(plan, region)}/${path}`, { ...init, headers });
    const answer = await response.json();
    return { status: response.status, message: answer.error?.message, ids: answer.data?.map(({ id }) => id) };
  };
  const chat = (key, place, body, agent) =>
    ask(key, place, "chat/completions", { messages: [{ role: "user", content: "hi" }], ...body }, agent);
  const coding = { plan: "coding-plan", region: "intl" };
  const token = { plan: "token-plan", region: "cn" };
  const metered = { plan: "dashscope", region: "us" };
  const keys = new Map([coding, token, metered].map((place) => [place, server.addKey(place)]));
  assert.match(keys.get(token), /^sk-sp-/);
  assert.match(keys.get(metered), /^sk-(?!sp-)/);
  assert.match(server.addKey({ plan: "token-plan", region: "intl" }), /^sk-(?!sp-)/);
  for (const [place, key] of keys) {
    assert.equal((await chat(key, place, { model: "qwen3.7-plus" })).status, 200);
    for (const other of [coding, token, metered, { ...place, region: "hk" }]) {
      if (other === place) continue;
      const { status, message } = await chat(key, other, { model: "qwen3.7-plus" });
      assert.equal(status, other.plan === "coding-plan" ? 403 : 401);
      assert.match(message, other.plan === "coding-plan" ? /^invalid api-key$/ : /Incorrect API key/);
    }
  }
  assert.equal((await chat(keys.get(token), token, { model: "qwen3-coder-plus" })).status, 404);
  assert.equal((await chat(keys.get(coding), coding, { model: "qwen3-coder-plus" })).status, 200);
  const { ids } = await ask(keys.get(metered), metered, "models");
  assert.ok(ids.includes("kimi-k3") && ids.includes("qwen-image-2.0") && !ids.includes("glm-5"));
  const unknown = await chat(keys.get(coding), coding, { model: "qwen3.7-plus" }, "curl/8");
  assert.equal(unknown.status, 405);
  assert.match(unknown.message, /Coding Agents/);
  const [system, image] = [[SYSTEM], [{ type: "image_url", image_url: { url: "data:image/png;base64,AA" } }]];
  for (const body of [
    { model: "kimi-k2.5", metadata: { sessionId: "1" } },
    { model: "glm-5", messages: system },
    { model: "glm-5", messages: [{ role: "user", content: image }] },
  ])
    assert.equal((await chat(keys.get(token), token, body)).status, 400, JSON.stringify(body));
  const seeing = { model: "kimi-k2.5", messages: [{ role: "user", content: image }] };
  assert.equal((await chat(keys.get(token), token, seeing)).status, 200);
});

qwenTest("the portal's strictness", {}, async (server, client) => {
  const user = { role: "user", content: "hi" };
  const call = { role: "assistant", content: "", tool_calls: [{ id: "c1", type: "function", function: {} }] };
  const result = { role: "tool", tool_call_id: "c1", content: "ok" };
  const refused = {
    "not one of system": { messages: [{ role: "developer", content: "x" }, user] },
    "array content with a cache_control": { messages: [{ role: "system", content: "x" }, user] },
    "only one is allowed": { messages: [SYSTEM, SYSTEM, user] },
    "must come first": { messages: [user, SYSTEM] },
    "Range of max_tokens": { max_tokens: 65_537 },
    "\\[1, 8192\\]": { model: "vision-model", max_completion_tokens: 10_000 },
    "content must not be empty": { messages: [{ role: "user", content: [] }] },
    "5 cache_control markers": {
      messages: [SYSTEM, { role: "user", content: Array(4).fill(SYSTEM.content[0]) }],
    },
    "is not answered before": { messages: [user, call, user] },
    "c1 is not answered": { messages: [user, call] },
    "answers no open tool call": { messages: [user, result] },
    "non-empty array": { messages: [] },
    "must be an object": { messages: [null] },
    "only allowed when stream": { stream_options: { include_usage: true } },
  };
  for (const [message, body] of Object.entries(refused)) {
    const response = await client.chat("hi", body);
    assert.match((await response.json()).error.message, new RegExp(message));
    assert.equal(response.status, 400, message);
  }
  assert.equal(server.violations.length, Object.keys(refused).length);
  assert.equal((await client.chat("hi", {}, { headers: { "x-dashscope-authtype": "openai" } })).status, 400);
  assert.equal((await client.chat("hi", {}, { headers: { "content-type": "text/plain" } })).status, 400);
  assert.equal((await client.chat("hi", { model: "gpt-9" })).status, 404);
  assert.equal((await client.chat("hi", { messages: [user, call, result, user] })).status, 200);
  server.script("chat", [{ strict: false }]);
  assert.equal((await client.chat("hi", refused["must come first"])).status, 200);
  server.set({ strict: false });
  assert.equal((await client.chat("hi", { model: "gpt-9", messages: [user, SYSTEM] })).status, 200);
});

qwenTest("answers: echo, words, title, usage, images, natural read", {}, async (server, client) => {
  const plain = await (await client.chat("hello  there\nyou")).json();
  assert.equal(plain.choices[0].message.content, "You said: hello  there\nyou");
  assert.equal(plain.usage.total_tokens, plain.usage.prompt_tokens + plain.usage.completion_tokens);
  const second = await (await client.chat("again")).json();
  assert.ok(second.usage.prompt_tokens_details.cached_tokens > 0);
  assert.equal(await contentOf(await client.chat("SAY 3")), "word1 word2 word3");
  const cut = (await (await client.chat("SAY 300", { max_tokens: 2 })).json()).choices[0];
  assert.deepEqual([cut.message.content, cut.finish_reason], ["word1 word2 ", "length"]);
  const content = [{ ...SYSTEM.content[0], text: "Write a title." }];
  const titled = {
    messages: [
      { role: "system", content },
      { role: "user", content: "Fix the bug in a b c" },
    ],
  };
  assert.equal(await contentOf(await client.chat("", titled)), "Fix the bug in a");
  const image = { type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } };
  const seen = await client.chat([{ type: "text", text: "look" }, image], { model: "vision-model" });
  assert.equal(await contentOf(seen), "You said: look\nImage: image/png, 3 bytes");
  const read = (await (await client.chat("Sum up notes.txt, please", offer("read"))).json()).choices[0];
  assert.equal(read.finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(read.message.tool_calls[0].function.arguments), { filePath: "notes.txt" });
  const path = (await (await client.chat("open /tmp/x-1/notes.md.", offer("read"))).json()).choices[0];
  assert.deepEqual(JSON.parse(path.message.tool_calls[0].function.arguments), {
    filePath: "/tmp/x-1/notes.md",
  });
});

qwenTest("streams: deltas, usage, tool calls in fragments, tool results", {}, async (server, client) => {
  const text = await (await client.chat("one two", stream)).text();
  const parts = events(text);
  assert.equal(parts.at(-1), "[DONE]");
  const chunks = parts.slice(0, -1).map((part) => JSON.parse(part));
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), "You said: one two");
  assert.equal(chunks.at(-2).choices[0].finish_reason, "stop");
  assert.ok(chunks.at(-1).usage.completion_tokens > 0 && chunks.at(-1).choices.length === 0);

  const prompt = '"CALL read {\\"filePath\\": \\"a}b\\"} and CALL other, CALL list"';
  const called = await (await client.chat(prompt, { ...stream, ...offer("read", "list") })).text();
  const deltas = events(called)
    .slice(1, -3)
    .map((part) => JSON.parse(part).choices[0].delta.tool_calls[0]);
  const first = deltas.filter(({ index }) => index === 0);
  assert.ok(first.length > 3 && first[0].id && first[0].function.name === "read");
  assert.deepEqual(JSON.parse(first.map((delta) => delta.function.arguments).join("")), { filePath: "a}b" });
  assert.equal(deltas.find(({ index }) => index === 1).function.name, "list");

  const messages = [
    { role: "user", content: prompt },
    { role: "assistant", content: "", tool_calls: [{ id: first[0].id, type: "function", function: {} }] },
    { role: "tool", tool_call_id: first[0].id, content: "r".repeat(300) },
  ];
  assert.equal(await contentOf(await client.chat("", { messages })), `The tool answered: ${"r".repeat(200)}`);
});

qwenTest("quota of an account", {}, async (server, client) => {
  server.setQuota("alice", 1, { retryAfter: 7 });
  assert.equal((await client.chat("hi")).status, 200);
  const refused = await client.chat("hi");
  assert.deepEqual([refused.status, refused.headers.get("retry-after")], [429, "7"]);
  assert.equal((await refused.json()).error.code, "insufficient_quota");
  server.setQuota("alice", 0, { as403: true });
  assert.equal((await client.chat("hi")).status, 403);
  assert.equal((await client.post("embeddings", { model: "text-embedding-v4", input: "x" })).status, 403);
  server.setQuota("alice", null);
  const embedded = await client.post("embeddings", { model: "text-embedding-v4", input: ["a", "b"] });
  assert.equal((await embedded.json()).data[1].embedding.length, 8);
});

test("close ends open connections and waiters", async () => {
  const server = await startQwenServer();
  const client = clientOf(server);
  server.script("chat", ["hang"]);
  const pending = failure(client.chat("hi"));
  await server.waitFor("chat");
  const waiting = assert.rejects(server.waitFor("device", 60_000), /closed/);
  await server.close();
  await Promise.all([pending, waiting]);
  assert.equal(server.stats.openSockets, 0);
  assert.equal(server.requests[0].closedByClient, false);
});

test("https works, and HTTP/2 on request", async (t) => {
  const tls = selfSigned();
  if (!tls) return t.skip("needs openssl");
  const server = await startQwenServer({ tls, http2: true, strict: false });
  t.after(() => server.close());
  assert.match(server.url, /^https:/);
  const headers = { authorization: `Bearer ${server.issueToken().access_token}` };
  const [old] = await once(https.get(`${server.apiBaseUrl}/models`, { headers, ca: tls.cert }), "response");
  assert.equal(old.resume().statusCode, 200);

  const session = http2.connect(server.url, { ca: tls.cert }).on("error", () => {});
  const chat = (content) => {
    const request = session.request({ ":method": "POST", ":path": "/v1/chat/completions", ...headers });
    const body = { model: "coder-model", stream: true, messages: [{ role: "user", content }] };
    return request.on("error", () => {}).end(JSON.stringify(body));
  };
  server.script("chat", ["stall", "ok", "reset"]);
  const stalled = chat("one");
  await once(stalled, "data");
  const text = Buffer.concat(await chat("two").toArray()).toString();
  assert.match(text, /\[DONE\]/);
  stalled.close(http2.constants.NGHTTP2_CANCEL);
  const entry = await server.waitFor((it) => it.closedByClient);
  assert.deepEqual([entry.httpVersion, entry.step], ["2.0", "stall"]);
  chat("three");
  assert.equal((await once(session, "error"))[0].code, "ECONNRESET");
  assert.deepEqual(server.failures, []);
});

function selfSigned() {
  const folder = mkdtempSync(join(tmpdir(), "qwen-server-"));
  const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
  const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
  try {
    execFileSync("openssl", ["req", "-x509", "-nodes", ...curve, ...names, "-keyout", key, "-out", cert], {
      stdio: "ignore",
    });
    return { key: readFileSync(key, "utf8"), cert: readFileSync(cert, "utf8") };
  } catch {
    return undefined;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("the program has a control endpoint, a redacted log and a clean end", async (t) => {
  const child = spawn(process.execPath, [PROGRAM, "--auto-approve", "--expires-in", "60"]);
  t.after(() => child.kill("SIGKILL"));
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
  while (!output.includes("\n")) await once(child.stdout, "data");
  const url = /^listening on (http:\/\/127\.0\.0\.1:\d+)\n/.exec(output)[1];
  const control = async (body) => {
    const headers = { "content-type": "application/json" };
    return (await fetch(`${url}/_control`, { method: "POST", headers, body: JSON.stringify(body) })).json();
  };
  const { result: tokens } = await control({ action: "issueToken", account: "alice" });
  const client = clientOf({ url, apiBaseUrl: `${url}/v1`, issueToken: () => tokens });
  assert.equal((await client.poll((await client.device()).body.device_code)).status, 200);
  await control({ action: "script", endpoint: "chat", steps: [{ do: "quota", times: "always" }] });
  assert.equal((await client.chat("hi", stream)).status, 429);
  assert.match((await control({ action: "script", endpoint: "chat", steps: ["x"] })).error, /unknown step/);
  await client.refresh();
  const report = await (await fetch(`${url}/_control`)).text();
  assert.equal(JSON.parse(report).stats.chats, 1);
  assert.equal(JSON.parse(report).requests.length, 4);
  child.kill("SIGTERM");
  const [code] = await once(child, "exit");
  assert.equal(code, 0);
  assert.match(output, /POST \/v1\/chat\/completions 429 alice coder-model stream \d+B \d+ms step=quota/);
  assert.match(output, /token 200 grant_type=refresh_token refresh_token=… alice/);
  assert.ok(!output.includes(SECRET_PREFIX) && !report.includes(SECRET_PREFIX));
});
