import assert from "node:assert/strict";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { NAMES, recordOf, setUpAccounts, storeOf } from "./support/accounts.mjs";
import { chat, startClient, startServer, temporaryHome, until } from "./support/harness.mjs";
import { CREDENTIALS, IDS, STORE } from "./support/original-files.mjs";

const accountOf = (response) => response.headers.get("x-qwen-account");
const copy = (value) => structuredClone(value);

/** A home directory of the original plugin, and a server that knows its tokens. */
async function setUpOriginal(t, store = STORE, credentials = CREDENTIALS) {
  const server = await startServer(t);
  for (const { token } of STORE.accounts) server.issueToken({ account: token.access_token, ...token });
  const home = temporaryHome(t);
  if (credentials) home.write(credentials);
  else mkdirSync(home.directory);
  const file = storeOf(home);
  file.write(store);
  const settings = { env: home.env, baseUrl: server.url, oauth: { baseUrl: server.url } };
  return { server, home, store: file, settings, ...startClient(t, settings) };
}

test("a refreshed token's predecessor is left in no file", async (t) => {
  const store = copy(STORE);
  for (const { token } of store.accounts) token.expiry_date = 1;
  const { server, home, client, store: file } = await setUpOriginal(t, store, store.accounts[0].token);
  for (const id of IDS) await client.getAccessToken({ accountId: id });
  const text = file.bytes().toString();
  for (const name of NAMES)
    assert.ok(!text.includes(`refresh-${name}-BBBB`), `refresh-${name} is still there`);
  for (const { accountKey, token } of file.read().accounts) {
    assert.equal(text.split(token.refresh_token).length, 2, "the new one is there once");
    assert.ok(!accountKey?.includes(token.refresh_token));
  }
  assert.equal(home.read().refresh_token, file.read().accounts[0].token.refresh_token);
  const { redemptions, doubleRedemptions } = server.stats;
  assert.deepEqual({ redemptions, doubleRedemptions }, { redemptions: 3, doubleRedemptions: 0 });
});

test("accounts without usable tokens stay in the store and are skipped", async (t) => {
  const store = copy(STORE);
  store.accounts[0].token = { access_token: 5 };
  delete store.accounts[1].token;
  const { client, store: file } = await setUpOriginal(t, store, null);
  assert.equal(accountOf(await chat(client, "hi")), IDS[2]);
  assert.deepEqual(
    (await client.accounts()).map(({ state }) => state),
    ["needs-login", "needs-login", "ready"],
  );
  await client.setActiveAccount(IDS[2]);
  assert.equal(file.read().accounts.length, 3);
});

const UNREADABLE = {
  OPENCODE_QWEN_QUOTA_COOLDOWN_MS: ["soon", "0", "-1", "1.5", "1e999", "0x10", "99999999999999999999999999"],
  OPENCODE_QWEN_ROTATION: ["random", "Sequential!", "7"],
  OPENCODE_QWEN_DEGRADE: ["maybe", "2"],
  OPENCODE_QWEN_ENABLE_CLI_FALLBACK: ["perhaps"],
  QWEN_MODE: ["maybe"],
  DEBUG_QWEN_PLUGIN: ["loud"],
  ENABLE_PLUGIN_REQUEST_LOGGING: ["please"],
};

test("an invalid number, name or switch is reported once, and its default is used", async (t) => {
  for (const [name, values] of Object.entries(UNREADABLE)) {
    for (const value of values) {
      const { servers, client, events, home } = await setUpAccounts(t, { env: { [name]: value } });
      await until(() => events.length > 0, `${name}=${value} is told`);
      servers.one.setQuota("one", 0);
      const since = Date.now();
      assert.equal(accountOf(await chat(client, "hi")), "id-two");
      const { coolingUntil } = await client.activeAccount();
      assert.ok(coolingUntil >= since + 1_800_000 && coolingUntil <= Date.now() + 1_800_000);
      const config = events.filter(({ type }) => type === "config");
      assert.equal(config.length, 1, `${name}=${value}: ${JSON.stringify(events)}`);
      assert.ok(config[0].message.includes(name), config[0].message);
      assert.ok(!existsSync(join(home.home, ".opencode")), "no log is written");
    }
  }
});

test("empty variables and other spellings of a switch cause no report", async (t) => {
  for (const value of ["", "1", "true", "YES", "on", "0", "false", "No", "OFF"]) {
    const { events, client } = await setUpAccounts(t, {
      env: {
        QWEN_MODE: value,
        OPENCODE_QWEN_DEGRADE: value,
        OPENCODE_QWEN_ROTATION: "",
        OPENCODE_QWEN_QUOTA_COOLDOWN_MS: "",
      },
    });
    assert.equal((await chat(client, "hi")).status, 200);
    assert.deepEqual(events, []);
  }
});

test("a missing credentials file is not restored by a quota error or by a look at the accounts", async (t) => {
  const { servers, home, client } = await setUpAccounts(t);
  await client.accounts();
  const { unlinkSync } = await import("node:fs");
  unlinkSync(home.path);
  servers.one.setQuota("one", 0);
  assert.equal(accountOf(await chat(client, "hi")), "id-two");
  assert.ok(!existsSync(home.path));
});

test("another process sees a login and a removal", async (t) => {
  const { client, settings, servers } = await setUpAccounts(t, {
    server: { interval: 0.05, autoApprove: true },
  });
  const { client: other } = startClient(t, settings);
  assert.equal((await other.accounts()).length, 3);
  const { id } = await client.login({ label: "four", openBrowser: false });
  assert.equal((await other.activeAccount()).id, id);
  assert.equal(accountOf(await chat(other, "hi")), id);
  await other.removeAccount(id);
  assert.equal((await client.accounts()).length, 3);
  assert.notEqual(accountOf(await chat(client, "hi")), id);
  assert.equal(servers.one.stats.logins, 1);
});

test("a store with many accounts works", async (t) => {
  const server = await startServer(t);
  const home = temporaryHome(t);
  const records = Array.from({ length: 60 }, (_, index) =>
    recordOf(`id-${index}`, server.issueToken({ account: `user-${index}` })),
  );
  home.write(records[0].token);
  storeOf(home).write({ version: 1, activeAccountId: "id-0", accounts: records });
  server.script("chat", [{ do: "quota", times: 40 }]);
  const { client } = startClient(t, { env: home.env, oauth: { baseUrl: server.url } });
  assert.equal(accountOf(await chat(client, "hi")), "id-40");
  assert.equal((await client.accounts()).filter(({ state }) => state === "cooling").length, 40);
});
