// Logging in, and the files that it leaves.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { until } from "../support/harness.mjs";
import { assertClean, assertPlaceholder } from "./support/checks.mjs";
import { AUTH, CREDENTIALS, STORE, openHost, suite } from "./support/opencode.mjs";

/** A browser opener that records the address. */
function fakeBrowser(host) {
  const folder = host.sandbox.makeDirectory("bin");
  host.sandbox.write(
    "bin/xdg-open",
    `#!/bin/sh\nprintf '%s\\n' "$@" >> "${host.sandbox.path("opened")}"\n`,
    0o755,
  );
  host.env.PATH = `${folder}:${host.env.PATH}`;
  return () => (host.sandbox.has("opened") ? host.sandbox.read("opened").trim().split("\n") : []);
}

describe("login", suite(), () => {
  test("needs no terminal, shows address and code, and opens the browser if there is a display", async (t) => {
    const host = await openHost(t, { login: false, env: { DISPLAY: ":99" } });
    const opened = fakeBrowser(host);
    const result = await host.login();
    assert.equal(result.code, 0, result.stderr);
    const [, address, code] =
      /Go to: (http:\S+\/authorize\?user_code=([A-Z-]+)&client=qwen-code)\n/.exec(result.stdout) ?? [];
    assert.ok(code, result.stdout);
    assert.match(result.stdout, new RegExp(`Approve the login in your browser. The code is ${code}\\.`));
    assert.match(result.stdout, /Login successful/);
    if (process.platform === "linux") {
      await until(() => opened().length > 0, "the browser is opened");
      assert.deepEqual(opened(), [address]);
    }
    assertPlaceholder(host);
    assert.ok(host.server.issued.includes(host.sandbox.readJson(CREDENTIALS).access_token));
    assert.equal(host.sandbox.mode(CREDENTIALS), 0o600);
    assertClean(host.server);
  });

  test("reports the reason of a refusal", async (t) => {
    const host = await openHost(t, { login: false });
    host.server.script("token", ["denied"]);
    const result = await host.login();
    assert.equal(result.code, 1);
    assert.match(result.error, /The login was refused in the browser\. Log in again and approve it\.$/);
    assert.equal(host.sandbox.has(AUTH), false);
    assert.equal(host.sandbox.has(CREDENTIALS), false);
    assert.equal(host.server.stats.polls, 1);
  });

  test("in a running OpenCode", async (t) => {
    const host = await openHost(t, { login: false, server: { autoApprove: false } });
    const opened = fakeBrowser(host);
    const token = host.server.issueToken({ account: "bob", expiresIn: -60 });
    const entry = { access: token.access_token, refresh: token.refresh_token, expires: token.expiry_date };
    host.sandbox.write(AUTH, { "qwen-code": { type: "oauth", ...entry } });
    // The entry names no host.
    host.env.OPENCODE_QWEN_BASE_URL = host.server.apiBaseUrl;
    const service = await host.serve();
    const accounts = () => host.server.seen("chat").map(({ account }) => account);
    const codeOf = ({ body }) => new URL(body.url).searchParams.get("user_code");

    await t.test("another plugin's entry in OpenCode's file is adopted once", async () => {
      assert.equal((await service.ask("hello")).text, "You said: hello");
      assert.deepEqual(accounts(), ["bob"]);
      assert.equal(host.server.stats.redemptions, 1);
      assert.notEqual(host.sandbox.readJson(CREDENTIALS).refresh_token, token.refresh_token);
      // A second start adopts nothing, and keeps the newer tokens.
      const credentials = host.sandbox.read(CREDENTIALS);
      await service.reload();
      assert.equal((await service.ask("again")).text, "You said: again");
      assert.equal(host.sandbox.read(CREDENTIALS), credentials);
      assert.equal(host.server.stats.doubleRedemptions, 0);
    });

    await t.test("a login ends when a new one starts, and a failure is shown on the screen", async () => {
      const first = codeOf(await service.oauth("authorize"));
      const given = service.oauth("callback");
      const second = codeOf(await service.oauth("authorize"));
      assert.notEqual(first, second);
      assert.equal((await given).status, 500);
      host.server.deny(second);
      assert.notEqual((await service.oauth("callback")).body, true);
      const toast = await service.waitForToast(/refused in the browser/);
      assert.equal(toast.properties.variant, "error");

      const third = codeOf(await service.oauth("authorize"));
      host.server.approve(first);
      host.server.approve(third, { account: "carol" });
      assert.equal((await service.oauth("callback")).body, true);
      assert.equal(host.server.stats.logins, 1);
      const toasts = service.events.filter(({ type }) => type === "tui.toast.show");
      assert.deepEqual(toasts, [toast]);
      await service.ask("hello");
      assert.equal(accounts().at(-1), "carol");
      assert.deepEqual(opened(), [], "there is no display");
    });

    await t.test("a login names a new account, and renews one by its name", async () => {
      const logIn = async (inputs, account) => {
        const started = await service.oauth("authorize", { method: 1, inputs });
        host.server.approve(codeOf(started), { account });
        assert.equal((await service.oauth("callback", { method: 1 })).body, true);
      };
      const stored = () => host.sandbox.readJson(STORE).accounts.slice(-2);
      await logIn({ label: "work", replace: "" }, "alice");
      await logIn({ label: "private", replace: "" }, "dave");
      const [before] = stored();
      await logIn({ label: "", replace: "work" }, "alice");
      const after = stored();
      assert.deepEqual(
        after.map(({ id, label }) => [id, label]),
        [
          [before.id, "work"],
          [after[1].id, "private"],
        ],
      );
      assert.notEqual(after[0].token.access_token, before.token.access_token);
      const { deviceRequests } = host.server.stats;
      const inputs = { label: "", replace: "nobody" };
      assert.notEqual((await service.oauth("authorize", { method: 1, inputs })).status, 200);
      assert.equal(host.server.stats.deviceRequests, deviceRequests);
    });

    await t.test("a logout in OpenCode counts, even if the qwen CLI's file is still there", async () => {
      const credentials = host.sandbox.read(CREDENTIALS);
      const { length } = accounts();
      host.sandbox.write(AUTH, {});
      await service.reload();
      assert.equal(
        (await service.ask("hello")).error,
        "You have logged out of Qwen in OpenCode. Log in again with `opencode auth login`.",
      );
      assert.equal(accounts().length, length);
      assert.equal(host.sandbox.read(CREDENTIALS), credentials);
    });
    assertClean(host.server);
  });
});
