import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { SECRET_PREFIX } from "./support/qwen-server.mjs";
import { clientOf, qwenTest, stream, SYSTEM } from "./support/qwen-server/spec-client.mjs";

const PROGRAM = fileURLToPath(new URL("./support/qwen-server.mjs", import.meta.url));

qwenTest("scripts: order, times, match, account, anyone", {}, async (server, client) => {
  server.script("chat", [
    { status: 418, body: { tea: true }, times: 2 },
    { do: "quota", account: "bob", times: Infinity },
    { do: "rate_limit", retryAfter: 3, match: (entry) => entry.body.stream },
    { do: "html", status: 502, anyone: true },
  ]);
  const statuses = [];
  for (const extra of [{}, {}, stream, {}, {}]) statuses.push((await client.chat("hi", extra)).status);
  assert.deepEqual(statuses, [418, 418, 429, 502, 200]);
  server.script("models", ["forbidden", { do: "html", anyone: true }]);
  assert.equal((await fetch(`${server.apiBaseUrl}/models`)).status, 504);
  assert.equal((await fetch(`${server.apiBaseUrl}/models`)).status, 401);
  assert.equal((await client.get("models")).status, 403);
  assert.throws(() => server.script("chat", ["nonsense"]), /unknown step "nonsense"/);
  assert.throws(() => server.set({ expires: 1 }), /unknown option "expires"/);
});

qwenTest("malformed OAuth requests are refused and noted", {}, async (server, client) => {
  assert.equal((await client.device({}, {})).status, 400);
  assert.equal((await client.device({ client_id: "other" })).status, 400);
  assert.equal((await client.device({ scope: "" })).status, 400);
  assert.equal((await client.device({ code_challenge_method: "plain" })).status, 400);
  const headers = { "content-type": "application/json" };
  const url = `${server.url}/api/v1/oauth2/token`;
  server.script("token", ["html"]);
  assert.equal((await fetch(url, { method: "POST", headers, body: "{}" })).status, 400);
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
