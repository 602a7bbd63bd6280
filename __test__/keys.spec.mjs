// Keys of plans as accounts: recognised, checked, stored, used.
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { test } from "node:test";
import { storeOf } from "./support/accounts.mjs";
import { chat, rejection, setUp as setUpClient } from "./support/harness.mjs";

const PLAN_MODEL = { model: "qwen3.7-plus" };
/** Sends a request as a program that Coding Plan serves. */
const ask = (client) =>
  chat(client, "hi", PLAN_MODEL, {
    headers: { "content-type": "application/json", "user-agent": "opencode/1.18.33 runtime/bun/1.3" },
  });

async function setUp(t, options) {
  const context = await setUpClient(t, { token: null, ...options });
  return { ...context, store: storeOf(context.home) };
}

test("a key is checked with one cheap request, stored, and used", async (t) => {
  const { server, client, home, store } = await setUp(t);
  const key = server.addKey({ plan: "coding-plan", region: "intl" });
  const account = await client.addApiKey({
    key,
    baseUrl: server.placeUrl("coding-plan", "intl"),
    label: "Mine",
  });
  const { id, createdAt, updatedAt, ...rest } = account;
  assert.deepEqual(rest, {
    label: "Mine",
    kind: "api-key",
    active: true,
    enabled: true,
    billedByUse: true,
    state: "ready",
    baseUrl: server.placeUrl("coding-plan", "intl"),
  });
  const [check, ...more] = server.seen("chat");
  assert.equal(more.length, 0);
  assert.equal(check.body.max_tokens, 1);
  const { apiKeys, accounts } = store.read();
  assert.deepEqual([apiKeys.length, apiKeys[0].id, apiKeys[0].key, accounts], [1, id, key, []]);
  assert.equal(statSync(store.path).mode & 0o777, 0o600);
  assert.ok(!home.files().includes("oauth_creds.json"));
  assert.ok(createdAt <= updatedAt);

  const response = await ask(client);
  assert.deepEqual([response.status, response.headers.get("x-qwen-account")], [200, id]);
  const { headers } = server.seen("chat").at(-1);
  assert.equal(headers["x-dashscope-authtype"], "openai");
  assert.match(headers["user-agent"], /^opencode\/1\.18\.33 runtime\/bun\/1\.3 opencode-qwen-cli-auth\//);
  assert.equal(headers.authorization, `Bearer ${key}`);
  assert.deepEqual(server.violations, []);
  const { expiresAt, ...token } = await client.getAccessToken();
  assert.deepEqual(token, { accessToken: key, baseUrl: account.baseUrl, accountId: id });
  assert.equal(new Date(expiresAt).getTime(), 8_640_000_000_000_000);
});

test("adding the same key again renews its account", async (t) => {
  const { server, client, store } = await setUp(t);
  const key = server.addKey({ plan: "token-plan" });
  const options = { key, plan: "token-plan", baseUrl: server.apiBaseUrl };
  const first = await client.addApiKey({ ...options, label: "one" });
  const again = await client.addApiKey({ ...options, label: "two" });
  assert.deepEqual([again.id, again.label], [first.id, "two"]);
  assert.equal((await client.addApiKey({ ...options, check: false })).label, "two");
  assert.equal(store.read().apiKeys.length, 1);
  await client.removeAccount(first.id);
  assert.deepEqual(await client.accounts(), []);
  assert.ok(!store.bytes().includes(key));
});

test("choosing a key beside a login keeps the qwen CLI's file unchanged", async (t) => {
  const { server, client, home, store } = await setUp(t, { token: {} });
  const credentials = home.bytes();
  const [login] = await client.accounts();
  const key = server.addKey({ plan: "coding-plan" });
  const added = await client.addApiKey({ key, plan: "coding-plan", baseUrl: server.apiBaseUrl });
  assert.deepEqual([added.active, added.label], [false, "Coding Plan key"]);
  assert.deepEqual(
    (await client.accounts()).map(({ id, kind, active }) => [id, kind, active]),
    [
      [login.id, "oauth", true],
      [added.id, "api-key", false],
    ],
  );
  const chosen = await client.setActiveAccount(added.id);
  assert.equal(chosen.active, true);
  assert.deepEqual(home.bytes(), credentials);
  assert.equal((await ask(client)).headers.get("x-qwen-account"), added.id);
  await rejection(client.login({ replace: added.id }), "ERR_QWEN_INVALID_ARGUMENT");
  await client.removeAccount(added.id);
  assert.deepEqual(home.bytes(), credentials);
  assert.equal((await client.activeAccount()).id, login.id);
  assert.equal(store.read().apiKeys, undefined);
});

test("a key that is refused or can't be checked is not stored", async (t) => {
  const { server, client, home } = await setUp(t);
  const key = server.addKey({ plan: "coding-plan" });
  const add = (options) => client.addApiKey({ key, baseUrl: server.apiBaseUrl, ...options });
  await rejection(add({ key: "sk-sp-unknown" }), "ERR_QWEN_TOKEN_REJECTED", { status: 401 });
  await rejection(add({ baseUrl: `${server.url}/nowhere/v1` }), "ERR_QWEN_INVALID_ARGUMENT");
  server.script("chat", [{ do: "server_error" }, { do: "reset" }]);
  for (let turn = 0; turn < 2; turn += 1) await rejection(add(), "ERR_QWEN_NETWORK", { retryable: true });
  assert.throws(() => home.files(), { code: "ENOENT" });
  server.script("chat", [{ do: "quota", window: "week" }]);
  assert.equal((await add()).state, "ready");
  assert.equal((await add({ key: "sk-sp-other", check: false })).kind, "api-key");
});
