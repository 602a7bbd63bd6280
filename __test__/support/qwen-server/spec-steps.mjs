import assert from "node:assert/strict";
import { events, failure, qwenTest, stream } from "./spec-client.mjs";

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
  assert.deepEqual(
    server.seen("chat").map((entry) => entry.step),
    ["answer", "answer", "rate_limit", "html", undefined],
  );
  server.script("models", ["forbidden", { do: "html", anyone: true }]);
  assert.equal((await fetch(`${server.apiBaseUrl}/models`)).status, 504);
  assert.equal((await fetch(`${server.apiBaseUrl}/models`)).status, 401);
  assert.equal((await client.get("models")).status, 403);
  assert.throws(() => server.script("chat", ["nonsense"]), /unknown step "nonsense"/);
  assert.throws(() => server.script("nowhere", ["ok"]), /unknown endpoint/);
  server.clearScripts();
  assert.equal(server.scriptLeft("chat"), 0);
});

qwenTest("named OAuth answers", {}, async (server, client) => {
  const wanted = {
    pending: [400, "authorization_pending"],
    slow_down: [429, "slow_down"],
    slow_down_rfc: [400, "slow_down"],
    denied: [400, "access_denied"],
    expired: [400, "expired_token"],
    unauthorized: [401, "invalid_request"],
    status_pending: [200, undefined],
    invalid_request: [400, "invalid_request"],
    invalid_grant: [400, "invalid_grant"],
    html: [504, undefined],
  };
  server.script("token", Object.keys(wanted));
  for (const [name, [status, error]] of Object.entries(wanted)) {
    const got = await client.poll("made-up");
    assert.deepEqual([got.status, got.body.error], [status, error], name);
  }
  server.script("device", [{ do: "redirect", location: "/elsewhere", status: 302 }]);
  assert.equal((await client.device()).status, 404);
});

qwenTest("broken connections and bodies", {}, async (server, client) => {
  const broken = async (step, extra = stream) => {
    server.script("chat", [step]);
    return failure(client.chat("one two three", extra).then((response) => response.text()));
  };
  assert.equal(await broken("reset"), "ECONNRESET");
  assert.equal(await broken("close"), "UND_ERR_SOCKET");
  assert.match(await broken("garbage"), /^HPE_/);
  assert.match(await broken("cut"), /UND_ERR_SOCKET|terminated/);
  assert.equal(await broken({ do: "cut", reset: true }), "ECONNRESET");
  assert.match(await broken("cut", {}), /UND_ERR_SOCKET|terminated/);
  assert.equal(server.stats.closedByClient, 0);
  const told = async (step, extra = stream) => {
    server.script("chat", [step]);
    return (await client.chat("one two", extra)).text();
  };
  assert.equal(await told("empty_stream"), "data: [DONE]\n\n");
  const unfinished = await told("no_finish");
  assert.ok(!/"finish_reason":"/.test(unfinished) && unfinished.endsWith("[DONE]\n\n"));
  assert.equal(JSON.parse(await told("no_finish", {})).choices[0].finish_reason, null);
  const torn = events(await told("truncated_json"));
  assert.throws(() => JSON.parse(torn.at(-1)));
  const half = await told("truncated_json", {});
  assert.throws(() => JSON.parse(half));
  assert.match(await told({ do: "drip", ms: 1, bytes: 200 }), /\[DONE\]/);
  const sent = { events: [": note\r\n\r\n", 5, { json: { a: 1 } }, { base64: "/w==" }] };
  assert.equal(await told(sent), ': note\r\n\r\ndata: {"a":1}\n\n\ufffd');
  server.script("chat", [{ do: "binary", contentType: "application/json" }]);
  assert.equal((await (await client.chat("x")).arrayBuffer()).byteLength, 4096);
});

qwenTest("huge bodies and floods heed backpressure", {}, async (server, client) => {
  server.script("chat", [
    { do: "huge", bytes: 500_000_000 },
    { do: "flood", bytes: 3_000_000, size: 5000 },
  ]);
  const response = await client.chat("hi");
  const reader = response.body.getReader();
  await reader.read();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(server.requests[0].bytes < 50_000_000);
  await reader.cancel();
  await server.waitFor((entry) => entry.closedByClient);
  const flood = await (await client.chat("hi", stream)).text();
  assert.ok(flood.length >= 3_000_000 && flood.endsWith("[DONE]\n\n"));
});

qwenTest("waitFor, reset, gates", {}, async (server, client) => {
  await assert.rejects(server.waitFor("chat", 10), /no such request within 10 ms/);
  let open;
  server.script("chat", [{ delay: () => new Promise((resolve) => (open = resolve)) }]);
  const answer = client.chat("held");
  const entry = await server.waitFor("chat");
  assert.deepEqual([entry.body.messages[1].content, entry.status], ["held", undefined]);
  const second = server.waitFor("chat", { count: 2 });
  await client.chat("second");
  assert.equal((await second).body.messages[1].content, "second");
  open();
  assert.equal((await answer).status, 200);
  assert.equal(server.stats.chats, 2);
  server.reset();
  assert.deepEqual([server.stats.chats, server.requests.length], [0, 0]);
  assert.throws(() => server.set({ expires: 1 }), /unknown option "expires"/);
});
