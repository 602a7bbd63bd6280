// Requests on the wire, and the answers that the user sees.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { assertAnswer, assertClean, exchanges } from "./support/checks.mjs";
import { AUTH, CREDENTIALS, openHost, suite } from "./support/opencode.mjs";
import { VERSION } from "./support/package.mjs";

const PIXEL = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
  "base64",
);

describe("chat", suite(), () => {
  test("works with the login of the qwen CLI alone, and prints nothing but the answer", async (t) => {
    const host = await openHost(t);
    const credentials = host.sandbox.readJson(CREDENTIALS);
    const result = await host.chat("hello");
    assertAnswer(result, "You said: hello");
    assert.equal(result.stderr.trim(), "> build · coder-model");
    assert.equal(host.sandbox.has(AUTH), false);

    assert.equal(host.server.requests.length, 1);
    const [{ path, headers, body }] = host.server.requests;
    assert.equal(path, "/v1/chat/completions");
    assert.equal(headers.authorization, `Bearer ${credentials.access_token}`);
    assert.equal(headers["x-dashscope-authtype"], "qwen-oauth");
    assert.equal(headers["x-dashscope-cachecontrol"], "enable");
    assert.equal(headers["x-dashscope-useragent"], `opencode-qwen-cli-auth/${VERSION}`);
    assert.equal(headers["user-agent"], headers["x-dashscope-useragent"]);
    assert.match(headers["x-session-id"], /^ses_/);
    assert.equal(body.metadata.sessionId, headers["x-session-id"]);
    assert.equal(body.max_tokens, 65_536);
    assert.equal(body.stream, true);
    assert.equal(body.reasoning_effort, undefined);
    assert.deepEqual(
      body.messages.map(({ role }) => role),
      ["system", "user"],
    );
    assert.deepEqual(body.messages[0].content.at(-1).cache_control, { type: "ephemeral" });
    assert.ok(body.tools.length > 0);
    assertClean(host.server);
  });

  test("takes pictures", async (t) => {
    const host = await openHost(t);
    host.sandbox.write("work/pixel.png", PIXEL);
    const result = await host.chat("look", { model: "vision-model", args: ["--file", "pixel.png"] });
    assert.equal(result.code, 0, result.stderr);
    assert.match(result.stdout, new RegExp(`\nlook\nImage: image/png, ${PIXEL.length} bytes\n$`));
    const [{ body }] = host.server.seen("chat");
    assert.equal(body.max_tokens, 8_192);
    assert.equal(body.vl_high_resolution_images, true);
    assertClean(host.server);
  });

  test("calls tools, and continues if the token is refused in between", async (t) => {
    const host = await openHost(t);
    host.sandbox.write("work/notes.txt", "the secret word is plum\n");
    host.server.script("chat", ["ok", "token_rejected"]);
    const result = await host.chat("Read notes.txt, please");
    assert.equal(result.code, 0, result.stderr);
    assert.match(result.stdout, /^The tool answered: [^]*the secret word is plum/);
    assert.deepEqual(exchanges(host.server, "chat"), ["200 alice", "401 alice", "200 alice"]);
    const [, refused, repeated] = host.server.seen("chat");
    assert.deepEqual(repeated.body, refused.body);
    assert.notEqual(repeated.headers.authorization, refused.headers.authorization);
    assert.equal(host.server.stats.redemptions, 1);
    assertClean(host.server);
  });

  test("two starts with an expired token refresh it once", async (t) => {
    const host = await openHost(t, { login: { expiresIn: -60 } });
    // OpenCode's database takes one writer at a time, and each start writes.
    const env = { XDG_DATA_HOME: host.sandbox.path("second-data") };
    const results = await Promise.all([host.chat("one"), host.chat("two", { env })]);
    assertAnswer(results[0], "You said: one");
    assertAnswer(results[1], "You said: two");
    assert.deepEqual(exchanges(host.server, "chat"), ["200 alice", "200 alice"]);
    const { redemptions, doubleRedemptions } = host.server.stats;
    assert.deepEqual({ redemptions, doubleRedemptions }, { redemptions: 1, doubleRedemptions: 0 });
    const { access_token } = host.sandbox.readJson(CREDENTIALS);
    assert.equal(host.server.seen("chat")[0].headers.authorization, `Bearer ${access_token}`);
    assertClean(host.server);
  });

  test("sends title requests the same way", async (t) => {
    const host = await openHost(t);
    const result = await host.run(["run", "-m", "qwen-code/coder-model", "hello"]);
    assertAnswer(result, "You said: hello");
    assert.equal(host.server.seen("chat").length, 2);
    const title = host.server.seen("chat").find(({ body }) => body.tools === undefined);
    assert.equal(title.status, 200);
    assert.equal(title.body.reasoning_effort, undefined);
    assert.ok(title.body.max_tokens <= 65_536);
    assertClean(host.server);
  });

  test("streams, keeps its session over turns, and closes the stream when the user stops it", async (t) => {
    const host = await openHost(t, { server: { pace: 50 } });
    const service = await host.serve();
    await service.listen();
    // Long enough for an OpenCode that has just started on a busy machine.
    const { session, answer } = await service.prompt("SAY 100");
    await answer;
    await service.waitForIdle(session);
    const deltas = service.events.filter(({ type }) => type === "message.part.delta");
    assert.ok(deltas.length >= 15, `${deltas.length} parts`);
    assert.ok(deltas.at(-1).at - deltas[0].at >= 500, "they came all at once");

    const model = { providerID: "qwen-code", modelID: "coder-model" };
    const parts = [{ type: "text", text: "SAY 100000" }];
    const endless = service.request(`/session/${session.id}/message`, { model, parts });
    const request = await host.server.waitFor("chat", { count: 2 });
    await service.waitForEvent(({ properties }) => properties.delta === "word3 ");
    await service.request(`/session/${session.id}/abort`, {});
    await host.server.waitFor((entry) => entry === request && entry.closedByClient, 5_000);
    await endless;
    assert.equal(host.server.seen("chat").length, 2);
    const [first, second] = host.server.seen("chat");
    assert.equal(second.headers["x-session-id"], session.id);
    assert.equal(second.body.metadata.sessionId, first.body.metadata.sessionId);
    assert.notEqual(second.body.metadata.promptId, first.body.metadata.promptId);
    assertClean(host.server);
  });
});
