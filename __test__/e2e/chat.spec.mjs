// Requests on the wire, and the answers that the user sees.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { PNG } from "../support/png.mjs";
import { assertAnswer, assertClean, exchanges } from "./support/checks.mjs";
import { AUTH, CREDENTIALS, openHost, suite } from "./support/opencode.mjs";
import { VERSION } from "./support/package.mjs";

describe("chat", suite(), () => {
  test("two starts with an expired token refresh it once, and print nothing but the answer", async (t) => {
    const host = await openHost(t, { login: { expiresIn: -60 } });
    // OpenCode's database takes one writer at a time, and each start writes.
    const env = { XDG_DATA_HOME: host.sandbox.path("second-data") };
    const results = await Promise.all([
      host.chat("hello"),
      // Without a title, OpenCode asks for one.
      host.run(["run", "-m", "qwen-code/coder-model", "hello"], { env }),
    ]);
    for (const result of results) {
      assertAnswer(result, "You said: hello");
      assert.equal(result.stderr.trim(), "> build · coder-model");
    }
    assert.deepEqual(exchanges(host.server, "chat"), ["200 alice", "200 alice", "200 alice"]);
    const { redemptions, doubleRedemptions } = host.server.stats;
    assert.deepEqual({ redemptions, doubleRedemptions }, { redemptions: 1, doubleRedemptions: 0 });
    assert.equal(host.sandbox.has(AUTH), false);

    const { access_token } = host.sandbox.readJson(CREDENTIALS);
    const isTitle = ({ body }) => body.tools === undefined;
    const title = host.server.seen("chat").find(isTitle);
    assert.equal(title.body.reasoning_effort, undefined);
    assert.ok(title.body.max_tokens <= 65_536);
    const { path, headers, body } = host.server.seen("chat").find((entry) => !isTitle(entry));
    assert.equal(path, "/v1/chat/completions");
    assert.equal(headers.authorization, `Bearer ${access_token}`);
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

  test("a running OpenCode", async (t) => {
    const host = await openHost(t);
    const service = await host.serve();

    await t.test("takes pictures", async () => {
      const url = `data:image/png;base64,${PNG}`;
      const parts = [{ type: "file", mime: "image/png", filename: "pixel.png", url }];
      const { text } = await service.ask("look", { model: "vision-model", parts });
      assert.match(text, new RegExp(`look\nImage: image/png, ${Buffer.from(PNG, "base64").length} bytes$`));
      const [{ body }] = host.server.seen("chat");
      assert.equal(body.max_tokens, 8_192);
      assert.equal(body.vl_high_resolution_images, true);
    });

    await t.test("calls tools, and continues if the token is refused in between", async () => {
      host.server.reset();
      host.sandbox.write("work/notes.txt", "the secret word is plum\n");
      host.server.script("chat", ["ok", "token_rejected"]);
      const { text } = await service.ask("Read notes.txt, please");
      assert.match(text, /^The tool answered: [^]*the secret word is plum/);
      assert.deepEqual(exchanges(host.server, "chat"), ["200 alice", "401 alice", "200 alice"]);
      const [, refused, repeated] = host.server.seen("chat");
      assert.deepEqual(repeated.body, refused.body);
      assert.notEqual(repeated.headers.authorization, refused.headers.authorization);
      assert.equal(host.server.stats.redemptions, 1);
    });

    await t.test(
      "streams, keeps its session over turns, and closes the stream when the user stops it",
      async () => {
        host.server.reset();
        host.server.set({ pace: 50 });
        // Long enough for an OpenCode that has just started on a busy machine.
        const { session } = await service.ask("SAY 100");
        const deltas = service.events.filter(
          ({ type, properties }) => type === "message.part.delta" && properties.sessionID === session.id,
        );
        assert.ok(deltas.length >= 15, `${deltas.length} parts`);
        assert.ok(deltas.at(-1).at - deltas[0].at >= 500, "they came all at once");

        const since = Date.now();
        const { answer } = await service.prompt("SAY 100000", { session });
        const request = await host.server.waitFor("chat", { count: 2 });
        await service.waitForEvent(({ at, properties }) => at >= since && properties.delta === "word3 ");
        await service.request(`/session/${session.id}/abort`, {});
        await host.server.waitFor((entry) => entry === request && entry.closedByClient, 5_000);
        await answer;
        assert.equal(host.server.seen("chat").length, 2);
        const [first, second] = host.server.seen("chat");
        assert.equal(second.headers["x-session-id"], session.id);
        assert.equal(second.body.metadata.sessionId, first.body.metadata.sessionId);
        assert.notEqual(second.body.metadata.promptId, first.body.metadata.promptId);
      },
    );

    await t.test("shows each account and its usage for /qwen, and asks no model", async () => {
      host.server.set({ pace: 0 });
      const { session } = await service.ask("hello");
      const { length } = host.server.seen("chat");
      await service.qwenCommand(session);
      const { properties } = await service.waitForToast(/^\* Account 1: ready\n/);
      assert.match(
        properties.message,
        /\ntoday \d+ requests?, \S+ tokens, \d+ % cached\nlast 5 h \d+ requests?, /,
      );
      assert.equal(properties.variant, "info");
      assert.equal(host.server.seen("chat").length, length);
    });
    assertClean(host.server);
  });
});
