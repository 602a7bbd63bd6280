// Logging in, and the files that it leaves.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { assertAnswer, assertClean, assertFailure, assertPlaceholder } from "./support/checks.mjs";
import { AUTH, CREDENTIALS, openHost, suite } from "./support/opencode.mjs";

const DISPLAY = { DISPLAY: ":99" };

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
  test("needs no terminal, shows address and code, and is enough to chat", async (t) => {
    const host = await openHost(t, { login: false });
    const opened = fakeBrowser(host);
    const result = await host.login();
    assert.equal(result.code, 0, result.stderr);
    const code = /Go to: http:\S+\/authorize\?user_code=([A-Z-]+)&client=qwen-code\n/.exec(
      result.stdout,
    )?.[1];
    assert.ok(code, result.stdout);
    assert.match(result.stdout, new RegExp(`Approve the login in your browser. The code is ${code}\\.`));
    assert.match(result.stdout, /Login successful/);
    assert.deepEqual(opened(), []);

    assertPlaceholder(host);
    const credentials = host.sandbox.readJson(CREDENTIALS);
    assert.ok(host.server.issued.includes(credentials.access_token));
    assert.equal(host.sandbox.mode(CREDENTIALS), 0o600);

    assertAnswer(await host.chat("hello"), "You said: hello");
    const [request] = host.server.seen("chat");
    assert.equal(request.headers.authorization, `Bearer ${credentials.access_token}`);
    assert.deepEqual(host.sandbox.readJson(CREDENTIALS), credentials);
    assertClean(host.server);

    // A logout in OpenCode counts, even if the qwen CLI's file is still there.
    host.sandbox.write(AUTH, {});
    assertFailure(
      await host.chat("hello"),
      /^You have logged out of Qwen in OpenCode\. Log in again with `opencode auth login`\.$/,
    );
    assert.equal(host.server.seen("chat").length, 1);
    assert.deepEqual(host.sandbox.readJson(CREDENTIALS), credentials);
  });

  test("opens the browser if there is a display", { skip: process.platform !== "linux" }, async (t) => {
    const host = await openHost(t, { login: false, env: DISPLAY });
    const opened = fakeBrowser(host);
    const { stdout } = await host.login();
    const address = /Go to: (\S+)/.exec(stdout)[1];
    for (let left = 50; left > 0 && opened().length === 0; left -= 1) await sleep(100);
    assert.deepEqual(opened(), [address]);
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

  test("names a new account, and renews one by its name", async (t) => {
    const host = await openHost(t, { login: false });
    const service = await host.serve();
    const step = (name, inputs) =>
      service.request(`/provider/qwen-code/oauth/${name}`, { method: 1, inputs });
    const logIn = async (inputs, account) => {
      const { body } = await step("authorize", inputs);
      host.server.approve(new URL(body.url).searchParams.get("user_code"), { account });
      assert.equal((await step("callback")).body, true);
    };
    const accounts = () => host.sandbox.readJson(".qwen/oauth_accounts.json").accounts;
    await logIn({ label: "work", replace: "" }, "alice");
    await logIn({ label: "private", replace: "" }, "bob");
    const [before] = accounts();
    await logIn({ label: "", replace: "work" }, "alice");
    const after = accounts();
    assert.deepEqual(
      after.map(({ id, label }) => [id, label]),
      [
        [before.id, "work"],
        [after[1].id, "private"],
      ],
    );
    assert.notEqual(after[0].token.access_token, before.token.access_token);
    assert.notEqual((await step("authorize", { label: "", replace: "nobody" })).status, 200);
    assert.equal(host.server.stats.deviceRequests, 3);
  });

  test("ends when a new one starts, and a failure is shown on the screen", async (t) => {
    const host = await openHost(t, { login: false, server: { autoApprove: false } });
    const service = await host.serve();
    await service.listen();
    const authorize = () => service.request("/provider/qwen-code/oauth/authorize", { method: 0 });
    const callback = () => service.request("/provider/qwen-code/oauth/callback", { method: 0 });
    const codeOf = ({ body }) => new URL(body.url).searchParams.get("user_code");

    const first = codeOf(await authorize());
    const given = callback();
    const second = codeOf(await authorize());
    assert.notEqual(first, second);
    assert.equal((await given).status, 500);
    host.server.deny(second);
    assert.notEqual((await callback()).body, true);
    const toast = await service.waitForToast(/refused in the browser/);
    assert.equal(toast.properties.variant, "error");

    const third = codeOf(await authorize());
    host.server.approve(first);
    host.server.approve(third, { account: "bob" });
    assert.equal((await callback()).body, true);
    assert.equal(host.server.stats.logins, 1);
    assert.equal(service.events.filter(({ type }) => type === "tui.toast.show").length, 1);
    assertAnswer(await host.chat("hello"), "You said: hello");
    assert.equal(host.server.seen("chat")[0].account, "bob");
  });

  test("adopts another plugin's entry in OpenCode's file", async (t) => {
    const host = await openHost(t, { login: false });
    const { access_token, refresh_token, expiry_date } = host.server.issueToken({
      account: "bob",
      expiresIn: -60,
    });
    const entry = { type: "oauth", access: access_token, refresh: refresh_token, expires: expiry_date };
    host.sandbox.write(AUTH, { "qwen-code": entry });
    // The entry names no host.
    host.env.OPENCODE_QWEN_BASE_URL = host.server.apiBaseUrl;
    assertAnswer(await host.chat("hello"), "You said: hello");
    assert.deepEqual(
      host.server.seen("chat").map(({ account }) => account),
      ["bob"],
    );
    assert.equal(host.server.stats.redemptions, 1);
    assert.notEqual(host.sandbox.readJson(CREDENTIALS).refresh_token, refresh_token);
    // A second start adopts nothing, and keeps the newer tokens.
    const credentials = host.sandbox.read(CREDENTIALS);
    assertAnswer(await host.chat("again"), "You said: again");
    assert.equal(host.sandbox.read(CREDENTIALS), credentials);
    assert.equal(host.server.stats.doubleRedemptions, 0);
    assertClean(host.server);
  });
});
