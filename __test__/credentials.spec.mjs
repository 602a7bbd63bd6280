import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { test } from "node:test";
import { chat, endOf, rejection, setUp } from "./support/harness.mjs";

const posix = process.platform === "win32" ? "file modes and links are POSIX" : false;
const mode = (path) => statSync(path).mode & 0o777;
const LOGGED_OUT = { token: null, server: { interval: 0.1, autoApprove: true } };
const login = (client, options) => client.login({ openBrowser: false, ...options });

test("a login writes the file as the qwen CLI does, and nothing else", async (t) => {
  const { server, home, client, events } = await setUp(t, LOGGED_OUT);
  assert.deepEqual([await client.accounts(), await client.activeAccount()], [[], null]);
  await rejection(client.getAccessToken(), "ERR_QWEN_NOT_LOGGED_IN");
  await rejection(chat(client, "hi"), "ERR_QWEN_NOT_LOGGED_IN");
  const authorizations = [];
  const account = await login(client, { onAuthorization: (it) => authorizations.push(it) });
  assert.equal(authorizations.length, 1);
  assert.match(authorizations[0].verificationUriComplete, /user_code=/);
  const { access_token, refresh_token, token_type, resource_url, expiry_date } = home.read();
  const expected = { access_token, refresh_token, token_type, resource_url, expiry_date };
  assert.equal(home.bytes().toString(), JSON.stringify(expected, null, 2));
  assert.ok(server.issued.includes(access_token) && server.issued.includes(refresh_token));
  assert.deepEqual([token_type, resource_url], ["Bearer", server.url]);
  assert.ok(Math.abs(expiry_date - Date.now() - 21_600_000) < 60_000);
  if (!posix) assert.deepEqual([mode(home.path), mode(home.directory)], [0o600, 0o700]);
  assert.deepEqual(home.files(), ["oauth_creds.flock", "oauth_creds.json"]);

  assert.deepEqual(await client.accounts(), [account]);
  assert.deepEqual(await client.activeAccount(), account);
  const { kind, active, state, baseUrl, expiresAt } = account;
  assert.deepEqual({ kind, active, state }, { kind: "oauth", active: true, state: "ready" });
  assert.deepEqual([baseUrl, expiresAt], [server.apiBaseUrl, expiry_date]);
  assert.deepEqual(await client.getAccessToken(), {
    accessToken: access_token,
    baseUrl: server.apiBaseUrl,
    accountId: account.id,
    expiresAt: expiry_date,
  });
  assert.equal((await chat(client, "hi")).status, 200);
  const told = JSON.stringify([account, events]);
  assert.ok(!told.includes(access_token) && !told.includes(refresh_token));
});

test("a failed login changes nothing", async (t) => {
  const { server, home, client } = await setUp(t, { server: { interval: 0.1 } });
  const before = home.bytes();
  server.script("token", ["denied"]);
  await rejection(login(client), "ERR_QWEN_ACCESS_DENIED");
  const controller = new AbortController();
  const onAuthorization = () => controller.abort();
  const aborted = login(client, { signal: controller.signal, onAuthorization });
  await assert.rejects(aborted, { name: "AbortError" });
  const throwing = login(client, {
    signal: endOf(t),
    onAuthorization() {
      server.deny();
      throw new Error("the caller's own");
    },
  });
  await rejection(throwing, "ERR_QWEN_ACCESS_DENIED");
  assert.deepEqual(home.bytes(), before);
  assert.deepEqual(home.files(), ["oauth_creds.json"]);
});
