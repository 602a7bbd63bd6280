import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { chat, endOf, EXPIRED, homeAt, rejection, setUp, startClient } from "./support/harness.mjs";

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

test("a login that fails leaves everything as it was", async (t) => {
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

test("QWEN_HOME names the directory, ~ included", async (t) => {
  const { home, settings } = await setUp(t, LOGGED_OUT);
  for (const [value, directory] of [
    ["~/elsewhere", join(home.home, "elsewhere")],
    [join(home.home, "deep/er"), join(home.home, "deep/er")],
    ["", home.directory],
  ]) {
    const { client } = startClient(t, { ...settings, env: { ...home.env, QWEN_HOME: value } });
    await login(client);
    assert.ok(JSON.parse(readFileSync(join(directory, "oauth_creds.json"), "utf8")).access_token);
  }
});

test("what others keep in the file survives a refresh and a login", async (t) => {
  const { server, home, client } = await setUp(t, { server: LOGGED_OUT.server, token: EXPIRED });
  const extra = { id_token: "an id token", "x-note": { nested: [1, "\u00fc"] }, scope: "openid" };
  const old = { first: true, ...home.read(), ...extra };
  home.write(old);
  const { accessToken } = await client.getAccessToken();
  const refreshed = home.read();
  assert.equal(refreshed.access_token, accessToken);
  assert.notEqual(refreshed.refresh_token, old.refresh_token);
  for (const [name, value] of Object.entries({ first: true, ...extra }))
    assert.deepEqual(refreshed[name], value);
  assert.equal(home.bytes().toString(), JSON.stringify(refreshed, null, 2));
  await login(client);
  assert.notEqual(home.read().access_token, accessToken);
  assert.deepEqual(home.read()["x-note"], extra["x-note"]);
  assert.equal(server.stats.redemptions, 1);
});

test("what a refresh answer leaves out stays as it was", async (t) => {
  const { server, home, client } = await setUp(t, { server: { rotate: false }, token: EXPIRED });
  const old = home.read();
  server.script("token", [{ omit: ["refresh_token", "resource_url", "token_type"] }]);
  await client.getAccessToken();
  const { access_token, expiry_date, ...rest } = home.read();
  assert.notEqual(access_token, old.access_token);
  assert.ok(expiry_date > Date.now());
  const { refresh_token, token_type, resource_url } = old;
  assert.deepEqual(rest, { refresh_token, token_type, resource_url });
});

test("a linked file is written through", { skip: posix }, async (t) => {
  const { home, client } = await setUp(t, { token: EXPIRED });
  const [dotfiles, contents] = [join(home.home, "dotfiles"), home.bytes()];
  mkdirSync(dotfiles);
  writeFileSync(join(dotfiles, "creds.json"), contents, { mode: 0o644 });
  execFileSync("rm", [home.path]);
  symlinkSync("../dotfiles/creds.json", home.path);
  const { accessToken } = await client.getAccessToken();
  assert.ok(lstatSync(home.path).isSymbolicLink());
  assert.equal(readlinkSync(home.path), "../dotfiles/creds.json");
  assert.equal(JSON.parse(readFileSync(join(dotfiles, "creds.json"), "utf8")).access_token, accessToken);
  assert.equal(mode(join(dotfiles, "creds.json")), 0o600);
});

const UNUSABLE = {
  "an empty file": "",
  "white space": " \n",
  "a torn file": '{"access_token": "abc", "refresh_tok',
  "no JSON": "<html>",
  "binary data": Buffer.from({ length: 512 }, (_, index) => (index * 151) % 256),
  "JSON of another kind": "[1]",
  "no access token": '{"refresh_token":"r","expiry_date":1}',
  "an access token of the wrong type": '{"access_token":5,"refresh_token":"r"}',
  "an access token that breaks a header": '{"access_token":"a\\r\\nb","refresh_token":"r"}',
  "a huge file": `{"access_token":"${"x".repeat(2_000_000)}"}`,
};

for (const [what, contents] of Object.entries(UNUSABLE)) {
  test(`${what} is told, and kept byte for byte`, async (t) => {
    const { server, home, client } = await setUp(t, { token: null, server: LOGGED_OUT.server });
    const before = home.write(contents);
    const fields = { path: home.path, retryable: false };
    for (const call of [() => client.getAccessToken(), () => client.accounts(), () => chat(client, "hi")]) {
      const error = await rejection(call(), "ERR_QWEN_CREDENTIALS_INVALID", fields);
      assert.ok(error.message.includes(home.path));
      assert.ok(!error.message.includes("xxxx"));
    }
    assert.deepEqual(home.bytes(), before);
    assert.deepEqual(server.requests, []);
    await login(client);
    assert.equal((await chat(client, "hi")).status, 200);
    const aside = home.files().find((name) => name.startsWith("oauth_creds.json.corrupt-"));
    assert.deepEqual(readFileSync(join(home.directory, aside)), before);
  });
}

test("something that is no file is told, and stays", { skip: posix }, async (t) => {
  const { home, client } = await setUp(t, { token: null });
  mkdirSync(home.path, { recursive: true });
  await rejection(client.getAccessToken(), "ERR_QWEN_CREDENTIALS_INVALID", { path: home.path });
  assert.ok(statSync(home.path).isDirectory());
});

test("a pipe in the place of the file is not waited for", { skip: posix }, async (t) => {
  const { home, client } = await setUp(t, { token: null });
  mkdirSync(home.directory);
  execFileSync("mkfifo", [home.path]);
  const asked = client.getAccessToken({ signal: AbortSignal.timeout(3000) });
  await rejection(asked, "ERR_QWEN_CREDENTIALS_INVALID", { path: home.path });
});

test("a file in the place of the directory is told", async (t) => {
  const { home, client } = await setUp(t, { token: null });
  writeFileSync(home.directory, "in the way");
  const error = await rejection(client.getAccessToken(), "ERR_QWEN_IO");
  assert.ok(error.path.startsWith(home.directory));
  assert.equal(readFileSync(home.directory, "utf8"), "in the way");
});

test("odd but usable files are used", async (t) => {
  const { server, home, client } = await setUp(t);
  const { expiry_date, ...token } = home.read();
  home.write({ ...token, expiry_date: String(expiry_date) });
  assert.equal((await client.getAccessToken()).expiresAt, expiry_date);
  home.write(`\n\n${JSON.stringify({ expiry_date, access_token: token.access_token })}\n`);
  assert.equal((await client.getAccessToken()).accessToken, token.access_token);
  assert.equal(server.stats.tokenRequests, 0);
  for (const odd of ["soon", null, -5, 1e300, {}]) {
    home.write({ ...server.issueToken(), expiry_date: odd });
    const { accessToken } = await client.getAccessToken();
    assert.equal(home.read().access_token, accessToken);
  }
  assert.equal(server.stats.redemptions, 5);
});

test("a token without a refresh token serves until it expires, and then says so", async (t) => {
  const { home, client } = await setUp(t);
  const { refresh_token: _, ...rest } = home.read();
  home.write(rest);
  assert.equal((await client.getAccessToken()).accessToken, rest.access_token);
  const before = home.write({ ...rest, expiry_date: 1 });
  const error = await client.getAccessToken().catch((reason) => reason);
  assert.match(error.code, /^ERR_QWEN_(?:NOT_LOGGED_IN|REFRESH_TOKEN_INVALID|CREDENTIALS_INVALID)$/);
  assert.match(error.message, /[Ll]og in/);
  assert.deepEqual(home.bytes(), before);
  assert.equal(homeAt(home.home).files().includes("oauth_creds.lock"), false);
});
