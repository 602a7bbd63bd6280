import assert from "node:assert/strict";
import { rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { chat, EXPIRED, midway, rejection, setUp, sleep, until } from "./support/harness.mjs";

const LEFT_BEHIND = ["oauth_creds.flock", "oauth_creds.json"];

// Most of them wait for a timer or a retry, so they wait together.
describe("the token of a file", { concurrency: true }, () => {
  test("a token is refreshed thirty seconds before it expires, and once for all callers", async (t) => {
    const { server, home, client, events } = await setUp(t, { token: { expiresIn: 45 } });
    await client.getAccessToken();
    assert.equal(server.stats.tokenRequests, 0);
    home.write(server.issueToken({ expiresIn: 20 }));
    const calls = Array.from({ length: 20 }, (_, index) =>
      index % 2 ? client.getAccessToken() : chat(client, "hi").then((response) => response.text()),
    );
    await Promise.all(calls);
    assert.deepEqual(
      [server.stats.refreshes, server.stats.redemptions, server.stats.unauthorized],
      [1, 1, 0],
    );
    assert.deepEqual(
      events.map(({ type }) => type),
      ["refreshed"],
    );
    assert.deepEqual(home.files(), LEFT_BEHIND);
    assert.equal(statSync(join(home.directory, "oauth_creds.flock")).size, 0);
  });

  test("a token that was obtained just now is used, however short it lives", async (t) => {
    const { server, client } = await setUp(t, { server: { expiresIn: 5 }, token: EXPIRED });
    assert.equal((await chat(client, "hi")).status, 200);
    assert.equal(server.stats.redemptions, 1);
  });

  const NO_VERDICT = [
    [{ status: 429, body: { error: "slow_down" } }, 3],
    ["server_error", 3],
    ["html", 3],
    [{ status: 200, body: "<html>" }, 3],
    [{ status: 403, body: "<html>" }, 3],
    [{ do: "redirect", location: "/v1/models" }, 3],
    // An answer that was lost may have spent the token: one replay, and no more.
    ["hang", 2],
    ["reset", 2],
    ["close", 2],
    ["garbage", 2],
    [{ body: "{", headers: { "content-length": "99" }, end: "reset" }, 2],
  ];

  test("a refresh without a verdict leaves the file byte for byte", async (t) => {
    await Promise.all(
      NO_VERDICT.map(async ([step, requests]) => {
        const { server, home, client, events } = await setUp(t, {
          token: EXPIRED,
          oauth: { timeoutMs: step === "hang" ? 3_000 : undefined },
        });
        const before = home.bytes();
        const steps = typeof step === "string" ? { do: step } : step;
        server.script("token", [{ ...steps, times: Infinity }]);
        const refused = (call) => rejection(call, "ERR_QWEN_REFRESH_UNAVAILABLE", { retryable: true });
        const calls = [client.getAccessToken(), chat(client, "hi")].map(refused);
        for (const { cause } of await Promise.all(calls)) {
          assert.match(cause.code, /^ERR_QWEN_(?:OAUTH_ERROR|NETWORK|TIMEOUT|INVALID_RESPONSE)$/);
        }
        const what = JSON.stringify(step);
        assert.equal(server.stats.refreshes, requests, what);
        assert.deepEqual([server.stats.chats, server.stats.models], [0, 0], what);
        assert.deepEqual(home.bytes(), before, what);
        assert.deepEqual(home.files(), LEFT_BEHIND, what);
        assert.equal((await client.activeAccount()).state, "ready", what);
        assert.ok(
          events.every(({ type }) => type === "retry"),
          what,
        );
        server.clearScripts();
        assert.equal((await chat(client, "hi")).status, 200, what);
      }),
    );
  });

  test("being offline leaves the file byte for byte", async (t) => {
    const { server, home, client } = await setUp(t, { token: EXPIRED });
    const before = home.bytes();
    await server.close();
    await rejection(client.getAccessToken(), "ERR_QWEN_REFRESH_UNAVAILABLE");
    assert.deepEqual(home.bytes(), before);
  });

  test("an answer that was lost is asked for once more", async (t) => {
    const { server, home, client } = await setUp(t, { token: EXPIRED });
    server.script("token", [{ do: "lost_answer", replay: "accept" }]);
    const { accessToken } = await client.getAccessToken();
    assert.equal(home.read().access_token, accessToken);
    assert.deepEqual([server.stats.redemptions, server.stats.replays], [2, 1]);
  });

  test("a success that holds no token is not asked for again, and the file is kept", async (t) => {
    const { server, home, client } = await setUp(t, { token: EXPIRED });
    const before = home.bytes();
    for (const step of [{ override: { access_token: 1 } }, { status: 200, body: "[]" }, { do: "huge" }]) {
      server.script("token", [step]);
      await rejection(client.getAccessToken(), "ERR_QWEN_INVALID_RESPONSE");
    }
    assert.equal(server.stats.refreshes, 3);
    assert.deepEqual(home.bytes(), before);
  });

  test("a refused refresh token asks for a login, once, and never the server again", async (t) => {
    const { server, home, client, events } = await setUp(t, { server: { interval: 0.1 }, token: EXPIRED });
    server.revokeRefresh(home.read().refresh_token);
    const before = home.bytes();
    const fields = { path: home.path, oauthError: "invalid_request", status: 400, retryable: false };
    for (let call = 0; call < 3; call += 1) {
      await rejection(client.getAccessToken(), "ERR_QWEN_REFRESH_TOKEN_INVALID", fields);
      await rejection(chat(client, "hi"), "ERR_QWEN_REFRESH_TOKEN_INVALID");
    }
    assert.deepEqual([server.stats.refreshes, server.stats.chats], [1, 0]);
    assert.deepEqual(home.bytes(), before);
    assert.deepEqual(
      events.map(({ type }) => type),
      ["needs-login"],
    );
    const account = await client.activeAccount();
    assert.equal(account.state, "needs-login");
    assert.equal(events[0].accountId, account.id);

    home.write(server.issueToken());
    assert.equal((await chat(client, "hi")).status, 200, "the CLI logged in");
    assert.equal((await client.activeAccount()).state, "ready");

    home.write(server.issueToken(EXPIRED));
    server.revokeRefresh(home.read().refresh_token);
    await rejection(client.getAccessToken(), "ERR_QWEN_REFRESH_TOKEN_INVALID");
    server.set({ autoApprove: true });
    assert.equal((await client.login({ openBrowser: false })).state, "ready");
    assert.equal((await chat(client, "hi")).status, 200);
  });

  test("an account that needs a login says why", async (t) => {
    const { server, home, client } = await setUp(t, { token: EXPIRED });
    server.revokeRefresh(home.read().refresh_token);
    const error = await rejection(client.getAccessToken(), "ERR_QWEN_REFRESH_TOKEN_INVALID");
    const { lastError } = await client.activeAccount();
    assert.deepEqual([lastError?.code, lastError?.message], [error.code, error.message]);
  });

  test("a token that another process has refreshed is taken from the file", async (t) => {
    const { server, home, client } = await setUp(t);
    const first = await client.getAccessToken();
    home.write(server.issueToken());
    const second = await client.getAccessToken();
    assert.notEqual(second.accessToken, first.accessToken);
    server.revokeAllAccess("alice");
    await client.getAccessToken();
    home.write(server.issueToken({ account: "bob" }));
    assert.equal((await chat(client, "hi")).status, 200);
    assert.deepEqual([server.stats.tokenRequests, server.seen("chat").at(-1).account], [0, "bob"]);
  });

  test("a caller who gives up does not lose the token", async (t) => {
    const { server, home, client, open } = await midway(t);
    const before = home.bytes();
    const controllers = [new AbortController(), new AbortController()];
    const [asked, requested] = [
      client.getAccessToken({ signal: controllers[0].signal }),
      chat(client, "hi", {}, { signal: controllers[1].signal }),
    ];
    await server.waitFor("token");
    for (const controller of controllers) controller.abort();
    await assert.rejects(asked, { name: "AbortError" });
    await assert.rejects(requested, { name: "AbortError" });
    assert.deepEqual(home.bytes(), before);
    open();
    await until(() => !home.bytes().equals(before), "the token is written");
    const { accessToken } = await client.getAccessToken();
    assert.equal(accessToken, home.read().access_token);
    assert.deepEqual([server.stats.redemptions, server.stats.chats, server.stats.closedByClient], [1, 0, 0]);
  });

  test("a client that is closed in the middle of a refresh still writes the token", async (t) => {
    const { server, home, client, open } = await midway(t);
    const before = home.bytes();
    const asked = client.getAccessToken();
    await server.waitFor("token");
    client.close();
    await assert.rejects(asked, { name: "AbortError" });
    open();
    await until(() => !home.bytes().equals(before), "the token is written");
    assert.ok(server.issued.includes(home.read().refresh_token));
    await until(() => home.files().join() === LEFT_BEHIND.join(), "the lock is released");
  });

  test("a login that took the file's place in the middle of a refresh stays", async (t) => {
    const { server, home, client, open } = await midway(t);
    const asked = client.getAccessToken();
    await server.waitFor("token");
    const other = home.write(server.issueToken({ account: "bob" }));
    open();
    await asked;
    assert.deepEqual(home.bytes(), other);
    await (await chat(client, "hi")).text();
    assert.equal(server.seen("chat")[0].account, "bob");
  });

  test("a file that was removed in the middle of a refresh stays removed", async (t) => {
    const { server, home, client, open } = await midway(t);
    const asked = client.getAccessToken();
    await server.waitFor("token");
    rmSync(home.path);
    open();
    await asked.catch(() => {});
    assert.deepEqual(home.files(), ["oauth_creds.flock"]);
    await rejection(client.getAccessToken(), "ERR_QWEN_NOT_LOGGED_IN");
  });

  const UUID = "0b6f2f0e-8f6c-4a53-9f0e-5c1d2a3b4c5d";

  test("a fresh lock of the qwen CLI is waited for", async (t) => {
    const { server, home, client } = await setUp(t, { token: EXPIRED });
    const lock = join(home.directory, "oauth_creds.lock");
    writeFileSync(lock, UUID);
    const asked = client.getAccessToken();
    await sleep(500);
    assert.equal(server.stats.tokenRequests, 0, "it went on without the lock");
    rmSync(lock);
    await asked;
    assert.equal(server.stats.redemptions, 1);
    assert.deepEqual(home.files(), LEFT_BEHIND);
  });

  test("what the lock's holder writes is taken, and its lock left alone", async (t) => {
    const { server, home, client } = await setUp(t, { token: EXPIRED });
    const lock = join(home.directory, "oauth_creds.lock");
    writeFileSync(lock, UUID);
    const asked = client.getAccessToken();
    await sleep(300);
    const { access_token } = server.issueToken();
    home.write({ ...home.read(), access_token, expiry_date: Date.now() + 3_600_000 });
    assert.equal((await asked).accessToken, access_token);
    assert.equal(server.stats.tokenRequests, 0);
    assert.deepEqual(home.files(), ["oauth_creds.flock", "oauth_creds.json", "oauth_creds.lock"]);
  });

  test("an abandoned lock does not block", async (t) => {
    const { server, home, client } = await setUp(t, { token: EXPIRED });
    const lock = join(home.directory, "oauth_creds.lock");
    writeFileSync(lock, UUID);
    const longAgo = Date.now() / 1000 - 60;
    utimesSync(lock, longAgo, longAgo);
    await client.getAccessToken();
    home.write(server.issueToken(EXPIRED));
    writeFileSync(lock, `${UUID}\nopencode-qwen-cli-auth 1\n`);
    await client.getAccessToken();
    assert.equal(server.stats.redemptions, 2);
    assert.deepEqual(home.files(), LEFT_BEHIND);
  });

  test("the lock is kept fresh, and known as ours, while a slow server is waited for", async (t) => {
    const { server, home, client, open } = await midway(t);
    const lock = join(home.directory, "oauth_creds.lock");
    const asked = client.getAccessToken();
    await server.waitFor("token");
    const taken = statSync(lock);
    // Windows has no such modes.
    if (process.platform !== "win32") assert.equal(taken.mode & 0o777, 0o600);
    await until(() => statSync(lock).mtimeMs > taken.mtimeMs, "the lock is touched", 8000);
    open();
    await asked;
    assert.deepEqual(home.files(), LEFT_BEHIND);
  });
});
