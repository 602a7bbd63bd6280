import assert from "node:assert/strict";
import { events, failure, qwenTest, stream } from "./spec-client.mjs";

qwenTest("a lost answer is no double redemption, a slow one is", {}, async (server, client) => {
  server.script("token", [{ do: "lost_answer", replay: "accept" }]);
  assert.equal(await failure(client.refresh()), "ECONNRESET");
  assert.equal((await client.refresh()).status, 200);
  assert.deepEqual([server.stats.replays, server.stats.doubleRedemptions], [1, 0]);

  const refused = server.issueToken({ account: "bob" }).refresh_token;
  server.script("token", ["lost_answer"]);
  await failure(client.refresh(refused));
  assert.equal((await client.refresh(refused)).status, 400);
  assert.deepEqual([server.stats.replays, server.stats.doubleRedemptions], [2, 0]);

  const slow = server.issueToken({ account: "bob" }).refresh_token;
  server.script("token", [{ do: "delay", ms: 50 }]);
  const [one, two] = await Promise.all([client.refresh(slow), client.refresh(slow)]);
  assert.deepEqual([one.status, two.status].sort(), [200, 400]);
  assert.equal(server.stats.doubleRedemptions, 1);
});

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

qwenTest("silence ends when the client goes", {}, async (server, client) => {
  for (const step of ["hang", "headers_then_stall", { do: "stall", after: 2 }, { do: "delay", ms: 60_000 }]) {
    server.script("chat", [step]);
    const controller = new AbortController();
    const id = server.requests.length + 1;
    const gone = failure(client.chat("hi", stream, { signal: controller.signal }).then((it) => it.text()));
    await server.waitFor((entry) => entry.id === id && entry.readAt && (entry.bytes > 0 || !step.after));
    controller.abort();
    await gone;
    const entry = await server.waitFor((it) => it.id === id && it.finishedAt);
    assert.equal(entry.closedByClient, true, JSON.stringify(step));
  }
  assert.equal(server.stats.closedByClient, 4);
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

qwenTest("steps apply to refusals too, if they are for anyone", {}, async (server, client) => {
  const headers = { authorization: "Bearer unknown" };
  server.script("chat", [{ do: "delay", ms: 1, anyone: true }]);
  assert.equal((await client.chat("hi", {}, { headers })).status, 401);
  assert.equal(server.scriptLeft("chat"), 0);
});

qwenTest("a client that dies before the answer loses it", { replay: "accept" }, async (server, client) => {
  server.script("token", [{ do: "delay", ms: 60_000 }]);
  const controller = new AbortController();
  const dead = failure(client.refresh(undefined, { signal: controller.signal }));
  await server.waitFor("token");
  controller.abort();
  await dead;
  await server.waitFor((entry) => entry.closedByClient);
  assert.equal((await client.refresh()).status, 200);
  assert.equal((await client.refresh()).status, 400);
  const { redemptions, replays, doubleRedemptions } = server.stats;
  assert.deepEqual(
    { redemptions, replays, doubleRedemptions },
    { redemptions: 2, replays: 1, doubleRedemptions: 1 },
  );
});

qwenTest("a step changes what any answer looks like", { pace: 1 }, async (server, client) => {
  const headers = { "X-Request-Id": "r1", "retry-after": "9" };
  server.script("chat", [
    { do: "quota", as403: true, code: "quota_exceeded", message: "hour allocated quota exceeded", headers },
    { do: "server_error", status: 500, body: "<oops>", contentType: "text/html" },
    { do: "drip", ms: 20, bytes: 100, times: 1 },
    { end: "destroy" },
  ]);
  const quota = await client.chat("hi");
  assert.deepEqual(
    [quota.status, quota.headers.get("retry-after"), quota.headers.get("x-request-id")],
    [403, "9", "r1"],
  );
  assert.equal((await quota.json()).error.code, "quota_exceeded");
  const oops = await client.chat("hi");
  assert.deepEqual(
    [oops.status, oops.headers.get("content-type"), await oops.text()],
    [500, "text/html", "<oops>"],
  );
  const before = Date.now();
  assert.equal((await (await client.chat("hi")).json()).object, "chat.completion");
  assert.ok(Date.now() - before >= 40);
  assert.equal((await (await client.chat("hi")).json()).object, "chat.completion");
  const again = Date.now();
  await (await client.chat("SAY 30", stream)).text();
  assert.ok(Date.now() - again >= 30);
});
