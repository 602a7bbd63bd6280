// Failures are shown once, in words, and OpenCode retries only temporary ones.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { QUOTA_BUT_DEGRADED } from "../support/accounts.mjs";
import { assertClean, exchanges } from "./support/checks.mjs";
import { CHECKOUT, CREDENTIALS, openHost, suite } from "./support/opencode.mjs";
import { Package } from "./support/package.mjs";

/** Steps of the server, and the messages that they lead to. */
const FAILURES = {
  stall: /^127\.0\.0\.1 sent nothing for 2 s\. Send the message again\.$/,
  headers_then_stall: /127\.0\.0\.1 sent nothing for 2 s/,
  hang: /127\.0\.0\.1 gave no answer for 2 s/,
  reset: /The connection to 127\.0\.0\.1 broke/,
  forbidden: /^Qwen refused this login, and a fresh token for it too\. Log in again/,
  // The answer to a shorter request could cut a tool call, so none is sent.
  quota:
    /^This Qwen account has used up its quota\. It will be tried again at \d\d:\d\d \(in (30|29) min\)\.[^\n]*$/,
};

describe("errors", suite(), () => {
  test("in a running OpenCode", async (t) => {
    const agent = { writer: { mode: "primary", prompt: "Write.", tools: { "*": false } } };
    const plugin = [CHECKOUT, { idleTimeoutMs: 2_000 }];
    const host = await openHost(t, { login: false, plugin, config: { agent } });
    const service = await host.serve();
    /** Begins with fresh accounts, for which the server does `steps`. */
    const begin = (names, endpoint, steps) => {
      assertClean(host.server);
      host.server.reset();
      host.replaceAccounts(...names);
      host.server.script(endpoint, steps);
    };

    await t.test("without a login, the message and /qwen say how to log in", async () => {
      const { session, error } = await service.ask("hello");
      assert.match(error, /^Not logged in to Qwen: .* Log in with `opencode auth login`/);
      await service.qwenCommand(session);
      await service.waitForToast(/^There is no account\. Log in with `opencode auth login`\.$/);
      assert.deepEqual(host.server.requests, []);
    });

    for (const [step, message] of Object.entries(FAILURES)) {
      await t.test(`${step} is reported once and not retried`, async () => {
        begin(["alice"], "chat", [{ do: step, times: Infinity }]);
        const { error, retries } = await service.ask("SAY 20");
        assert.match(error, message);
        // A refused token is refreshed, and refused once more.
        assert.equal(host.server.seen("chat").length, step === "forbidden" ? 2 : 1);
        assert.equal(retries, 0);
      });
    }

    await t.test("a used-up quota moves the session to another account", async () => {
      begin(["bob", "carol"], "chat", [{ do: "quota", account: "bob", retryAfter: 3600 }]);
      assert.equal((await service.ask("hello")).error, undefined);
      assert.deepEqual(exchanges(host.server, "chat"), ["429 bob", "200 carol"]);
      await service.waitForToast(/The Qwen account "bob" has used up its quota/);
      await service.waitForToast(/Requests go to the Qwen account "carol" now/);
    });

    await t.test("an agent without tools gets a shorter request, and a toast says so", async () => {
      begin(["alice"], "chat", [QUOTA_BUT_DEGRADED]);
      assert.equal((await service.ask("hello", { agent: "writer" })).error, undefined);
      assert.deepEqual(exchanges(host.server, "chat"), ["429 alice", "200 alice"]);
      assert.equal(host.server.seen("chat").at(-1).body.max_tokens, 1_024);
      await service.waitForToast(/All accounts are out of quota; a shorter request was answered: /);
    });

    await t.test("OpenCode retries temporary failures", async () => {
      begin(["alice"], "chat", [{ do: "rate_limit", retryAfter: 1 }, "server_error"]);
      assert.equal((await service.ask("hello")).text, "You said: hello");
      const statuses = host.server.seen("chat").map(({ status }) => status);
      assert.deepEqual(statuses, [429, 503, 200]);
    });

    await t.test("the end of the free tier is one line at each request, without a loop", async () => {
      begin(["alice"], "chat", []);
      host.server.set({ freeTier: false });
      for (let turn = 0; turn < 2; turn += 1) {
        assert.match(
          (await service.ask("hello")).error,
          /^Qwen ended its free tier on 2026-04-15: [^\n]*`npx opencode-qwen-cli-auth add-key`[^\n]*`opencode -m qwen-code\/qwen3\.7-plus`\.$/,
        );
      }
      assert.equal(host.server.stats.redemptions, 1);
      assert.equal(host.server.seen("chat").length, 3);
      // One success from the server restores the account at once.
      host.server.set({ freeTier: true });
      assert.equal((await service.ask("hello")).text, "You said: hello");
      assert.ok(host.sandbox.has(CREDENTIALS));
    });

    await t.test("an ended login is reported on the screen, and its file is kept", async () => {
      begin(["alice"], "token", [{ do: "invalid_request", times: Infinity }]);
      host.server.revokeAllAccess();
      const credentials = host.sandbox.read(CREDENTIALS);
      assert.match(
        (await service.ask("hello")).error,
        /^The Qwen login is no longer valid: .* Log in again\.$/,
      );
      const toast = await service.waitForToast(/The Qwen login is no longer valid/);
      assert.equal(toast.properties.variant, "error");
      assert.equal(host.sandbox.read(CREDENTIALS), credentials);
      assert.deepEqual(exchanges(host.server, "chat"), ["401 alice"]);

      // A login in another program is found without a restart.
      host.server.clearScripts();
      host.sandbox.write(CREDENTIALS, host.server.issueToken({ account: "bob" }));
      assert.equal((await service.ask("hello")).error, undefined);
      assert.equal(exchanges(host.server, "chat").at(-1), "200 bob");
    });
    assertClean(host.server);
  });

  test("without its native part OpenCode starts, and requests, logins and the screen report the reason", async (t) => {
    const reason =
      /The native part of opencode-qwen-cli-auth for \S+ could not be loaded: looked for .*\nInstall /s;
    const packed = new Package();
    t.after(() => packed.remove());
    const host = await openHost(t);
    const folder = packed.install(host.sandbox.path("plugins/node_modules"), false);
    host.configure({ plugin: [pathToFileURL(folder).href] });
    const service = await host.serve();
    assert.deepEqual(Object.keys(await service.models()).sort(), ["coder-model", "vision-model"]);
    assert.match((await service.ask("hello")).error, reason);
    const toast = await service.waitForToast(reason);
    assert.equal(toast.properties.variant, "error");
    const refused = await service.oauth("authorize");
    assert.notEqual(refused.status, 200);
    await service.waitForEvent(
      ({ at, type, properties }) =>
        at > toast.at && type === "tui.toast.show" && reason.test(properties.message),
    );
    assert.deepEqual(host.server.requests, []);
  });
});
