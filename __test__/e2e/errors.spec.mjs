// Failures are shown once, in words, and OpenCode retries only temporary ones.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { assertAnswer, assertClean, assertFailure, exchanges } from "./support/checks.mjs";
import { QUOTA_BUT_DEGRADED } from "../support/accounts.mjs";
import { CHECKOUT, CREDENTIALS, openHost, suite } from "./support/opencode.mjs";
import { Package } from "./support/package.mjs";

describe("errors", suite(), () => {
  test("a used-up quota ends the run at once, and is remembered", async (t) => {
    const host = await openHost(t);
    host.server.setQuota("alice", 0, { retryAfter: 3600 });
    const said =
      /^This Qwen account has used up its quota\. It will be tried again at \d\d:\d\d \(in (1 h|59 min)\)\.[^\n]*$/;
    const result = await host.chat("hello");
    assert.equal(result.code, 1);
    assertFailure(result, said);
    // A shorter answer could cut a tool call, so none is requested.
    const limits = host.server.seen("chat").map(({ body }) => body.max_tokens);
    assert.deepEqual(limits, [65_536]);
    assertFailure(await host.chat("hello"), said);
    assert.equal(host.server.seen("chat").length, 1);
    assertClean(host.server);
  });

  test("a used-up quota moves the session to another account", async (t) => {
    const host = await openHost(t, { login: false });
    const service = await host.serve();
    await service.listen();
    for (const account of ["alice", "bob"]) {
      host.server.set({ autoApproveAccount: account });
      await service.request("/provider/qwen-code/oauth/authorize", { method: 0 });
      assert.equal((await service.request("/provider/qwen-code/oauth/callback", { method: 0 })).body, true);
    }
    await (
      await service.prompt("hello")
    ).answer;
    const [{ account: first }] = host.server.seen("chat");
    host.server.setQuota(first, 0, { retryAfter: 3600 });
    const { info } = (await (await service.prompt("hello")).answer).body;
    assert.equal(info.error, undefined);
    const second = first === "alice" ? "bob" : "alice";
    assert.deepEqual(exchanges(host.server, "chat"), [`200 ${first}`, `429 ${first}`, `200 ${second}`]);
    await service.waitForToast(/The Qwen account .* has used up its quota/);
    await service.waitForToast(/Requests go to the Qwen account .* now/);
    assertClean(host.server);
  });

  test("an agent without tools gets a shorter answer, and a toast says so", async (t) => {
    const agent = { writer: { mode: "primary", prompt: "Write.", tools: { "*": false } } };
    const host = await openHost(t, { config: { agent } });
    const service = await host.serve();
    await service.listen();
    host.server.script("chat", [QUOTA_BUT_DEGRADED]);
    const { info } = (await (await service.prompt("hello", "coder-model", { agent: "writer" })).answer).body;
    assert.equal(info.error, undefined);
    assert.deepEqual(exchanges(host.server, "chat"), ["429 alice", "200 alice"]);
    assert.equal(host.server.seen("chat").at(-1).body.max_tokens, 1_024);
    await service.waitForToast(/All accounts are out of quota; a shorter request was answered: /);
    assertClean(host.server);
  });

  test("without a login, the message says how to log in", async (t) => {
    const host = await openHost(t, { login: false });
    const result = await host.chat("hello");
    assert.equal(result.code, 1);
    assertFailure(result, /^Not logged in to Qwen: .* Log in with `opencode auth login`/);
    assert.deepEqual(host.server.requests, []);
  });

  test("each failed request is reported once and not retried", async (t) => {
    const host = await openHost(t, { plugin: [CHECKOUT, { idleTimeoutMs: 2_000 }] });
    const service = await host.serve();
    await service.listen();
    const failures = {
      empty_stream: /^Qwen sent an empty answer\. Send the message again\.$/,
      no_finish: /^Qwen ended its answer without finishing it\. Send the message again\.$/,
      cut: /^The connection to 127\.0\.0\.1 broke: the server closed it early\. Send the message again\.$/,
      stall: /^127\.0\.0\.1 sent nothing for 2 s\. Send the message again\.$/,
      headers_then_stall: /127\.0\.0\.1 sent nothing for 2 s/,
      hang: /127\.0\.0\.1 gave no answer for 2 s/,
      reset: /The connection to 127\.0\.0\.1 broke/,
      forbidden: /^Qwen refused this login, and a fresh token for it too\. Log in again/,
    };
    for (const [step, message] of Object.entries(failures)) {
      await t.test(step, async () => {
        host.server.reset();
        host.server.script("chat", [{ do: step, times: Infinity }]);
        const { session, answer } = await service.prompt("SAY 20");
        const { info } = (await answer).body;
        assert.match(info.error.data.message, message);
        // A refused token is refreshed, and refused once more.
        assert.equal(host.server.seen("chat").length, step === "forbidden" ? 2 : 1);
        await service.waitForIdle(session);
        const statuses = service.events.filter(
          ({ type, properties }) => type === "session.status" && properties.sessionID === session.id,
        );
        assert.ok(statuses.length > 0);
        assert.ok(statuses.every(({ properties }) => properties.status.type !== "retry"));
      });
    }
  });

  test("OpenCode retries temporary failures", async (t) => {
    const host = await openHost(t);
    const service = await host.serve();
    host.server.script("chat", [{ do: "rate_limit", retryAfter: 1 }, "server_error"]);
    const { answer } = await service.prompt("hello");
    const { parts } = (await answer).body;
    assert.equal(parts.find(({ type }) => type === "text").text, "You said: hello");
    const statuses = host.server.seen("chat").map(({ status }) => status);
    assert.deepEqual(statuses, [429, 503, 200]);
  });

  test("an ended login is reported on the screen, and its file is kept", async (t) => {
    const host = await openHost(t, { login: { expiresIn: -60 } });
    const credentials = host.sandbox.read(CREDENTIALS);
    host.server.script("token", [{ do: "invalid_request", times: Infinity }]);
    const service = await host.serve();
    await service.listen();
    const { answer } = await service.prompt("hello");
    const { error } = (await answer).body.info;
    assert.match(error.data.message, /^The Qwen login is no longer valid: .* Log in again\.$/);
    const toast = await service.waitForToast(/The Qwen login is no longer valid/);
    assert.equal(toast.properties.variant, "error");
    assert.equal(host.sandbox.read(CREDENTIALS), credentials);
    assert.deepEqual(exchanges(host.server, "chat"), []);

    // A login in another program is found without a restart.
    host.server.clearScripts();
    host.sandbox.write(CREDENTIALS, host.server.issueToken({ account: "bob" }));
    const { info } = (await (await service.prompt("hello")).answer).body;
    assert.equal(info.error, undefined);
    assert.deepEqual(exchanges(host.server, "chat"), ["200 bob"]);
  });
});

describe("without its native part", suite(), () => {
  const reason =
    /The native part of opencode-qwen-cli-auth for \S+ could not be loaded: looked for .*\nInstall /s;
  let packed;
  before(() => {
    packed = new Package();
  });
  after(() => packed.remove());

  async function openCrippled(t, options) {
    const host = await openHost(t, options);
    const folder = packed.install(host.sandbox.path("plugins/node_modules"), false);
    host.configure({ plugin: [pathToFileURL(folder).href] });
    return host;
  }

  test("OpenCode starts, and a login reports the reason", async (t) => {
    const host = await openCrippled(t, { login: false });
    const models = await host.run(["models", "qwen-code"]);
    assertAnswer(models, "qwen-code/coder-model\nqwen-code/vision-model");
    const result = await host.login();
    assert.equal(result.code, 1);
    assert.match(result.error, reason);
  });

  test("requests and the screen report the reason", async (t) => {
    const host = await openCrippled(t);
    const service = await host.serve();
    await service.listen();
    const { answer } = await service.prompt("hello");
    assert.match((await answer).body.info.error.data.message, reason);
    const toast = await service.waitForToast(reason);
    assert.equal(toast.properties.variant, "error");
    assert.deepEqual(host.server.requests, []);
  });
});
