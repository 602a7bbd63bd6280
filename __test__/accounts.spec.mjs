import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { test } from "node:test";
import { assertNothingStrayed, NAMES, setUpAccounts, storeOf, told } from "./support/accounts.mjs";
import { chat, EXPIRED, rejection, startClient, startServer, temporaryHome } from "./support/harness.mjs";

const posix = process.platform === "win32" ? "file modes are POSIX" : false;
const errorOf = async (response) => (await response.json()).error;
const accountOf = (response) => response.headers.get("x-qwen-account");
const states = async (client) =>
  Object.fromEntries((await client.accounts()).map(({ label, state }) => [label, state]));

/** A conversation long enough for a smaller one to be tried. */
const TALK = {
  max_tokens: 8000,
  messages: Array.from({ length: 31 }, (_, index) => ({
    role: index % 2 ? "assistant" : "user",
    content: `part ${index} ${"x".repeat(2000)}`,
  })),
};

/** A server for OAuth, one for each account's API, and a client that is logged in to all of them. */
async function logInThrice(t) {
  const oauth = await startServer(t, { interval: 0.05, autoApprove: true });
  const home = temporaryHome(t);
  const settings = { env: home.env, oauth: { baseUrl: oauth.url } };
  const { client, events } = startClient(t, settings);
  const [servers, accounts, tokens] = [{}, {}, {}];
  for (const name of NAMES) {
    servers[name] = await startServer(t);
    oauth.set({ resourceUrl: servers[name].url, autoApproveAccount: name });
    accounts[name] = await client.login({ label: name, openBrowser: false });
    tokens[name] = home.read();
    servers[name].issueToken({ account: name, ...tokens[name] });
  }
  return { oauth, home, store: storeOf(home), settings, client, events, servers, accounts, tokens };
}

test("three logins are three accounts, and the newest is the active one and the qwen CLI's", async (t) => {
  const { home, store, client, events, servers, accounts, tokens } = await logInThrice(t);
  const listed = await client.accounts();
  assert.deepEqual(
    listed.map(({ label, active, state, kind, baseUrl }) => ({ label, active, state, kind, baseUrl })),
    NAMES.map((label) => ({
      label,
      active: label === "three",
      state: "ready",
      kind: "oauth",
      baseUrl: servers[label].apiBaseUrl,
    })),
  );
  assert.equal(new Set(listed.map(({ id }) => id)).size, 3);
  assert.deepEqual(await client.activeAccount(), listed[2]);
  for (const name of NAMES) {
    assert.equal(accounts[name].id, listed.find(({ label }) => label === name).id);
    assert.equal(accounts[name].active, true, "a login is what the user has just chosen");
    const record = store.read().accounts.find(({ label }) => label === name);
    assert.equal(record.token.access_token, tokens[name].access_token);
    assert.equal(record.token.refresh_token, tokens[name].refresh_token);
    assert.equal(record.resource_url, servers[name].url);
  }
  assert.equal(store.read().version, 1);
  assert.equal(store.read().activeAccountId, accounts.three.id);
  assert.deepEqual(home.read(), tokens.three);
  if (!posix) assert.equal(statSync(store.path).mode & 0o777, 0o600);
  assert.equal(accountOf(await chat(client, "hi")), accounts.three.id);
  assert.deepEqual(
    Object.values(servers).map((server) => server.stats.chats),
    [0, 0, 1],
  );
  const said = JSON.stringify([listed, accounts, events]);
  for (const { access_token, refresh_token } of Object.values(tokens)) {
    assert.ok(!said.includes(access_token) && !said.includes(refresh_token));
  }
});

test("a switch during the first request is reported as a switch", async (t) => {
  const { servers, client, events } = await setUpAccounts(t);
  servers.one.setQuota("one", 0);
  assert.equal(accountOf(await chat(client, "hi")), "id-two");
  assert.deepEqual(told(events, "switched"), [
    { type: "switched", accountId: "id-two", label: "two", fromAccountId: "id-one" },
  ]);
});

test("many requests at once survive an account without quota, and it is reported once", async (t) => {
  const { servers, all, client, events } = await setUpAccounts(t);
  servers.one.setQuota("one", 0);
  const responses = await Promise.all(Array.from({ length: 10 }, () => chat(client, "hi")));
  assert.deepEqual([...new Set(responses.map(accountOf))], ["id-two"]);
  assert.equal(told(events, "exhausted").length, 1);
  assertNothingStrayed(all);
});

test("with all accounts out of quota the answer is a 429 with the time of the next one", async (t) => {
  const { servers, all, client, total } = await setUpAccounts(t);
  for (const [name, retryAfter] of Object.entries({ one: 9000, two: 4000, three: 7000 })) {
    servers[name].setQuota(name, 0, { retryAfter, code: "quota_exceeded" });
  }
  const response = await chat(client, "hi", TALK);
  assert.equal(total(), 4);
  assert.equal(response.status, 429);
  assert.equal(response.headers.get("x-qwen-error"), "ERR_QWEN_QUOTA_EXHAUSTED");
  assert.equal(response.headers.get("content-type"), "application/json");
  const retryAfter = Number(response.headers.get("retry-after"));
  const free = Math.min(...(await client.accounts()).map(({ coolingUntil }) => coolingUntil));
  assert.ok(retryAfter > 3990 && retryAfter <= 4000, `Retry-After: ${retryAfter}`);
  assert.ok(Math.abs(free - Date.now() - retryAfter * 1000) < 10_000);
  const { code, message } = await errorOf(response);
  assert.equal(code, "quota_exceeded");
  const clock = new Date(free);
  const time = [clock.getHours(), clock.getMinutes()].map((part) => String(part).padStart(2, "0")).join(":");
  assert.match(message, /All 3 accounts are out of quota/);
  assert.ok(message.includes(time), `"${message}" does not say ${time}`);
  assert.match(message, /1 h [67] min/);
  assert.deepEqual(await states(client), { one: "cooling", two: "cooling", three: "cooling" });
  assertNothingStrayed(all);
});

test("a refresh without a verdict does not switch the account", async (t) => {
  const { servers, client, total } = await setUpAccounts(t, { tokens: { one: EXPIRED } });
  servers.one.script("token", [{ do: "html", times: Infinity }]);
  const error = await rejection(chat(client, "hi"), "ERR_QWEN_REFRESH_UNAVAILABLE", { retryable: true });
  assert.equal(error.accountId, "id-one");
  assert.equal(total(), 0);
});

test("an unknown account id changes nothing", async (t) => {
  const { home, store, client } = await setUpAccounts(t);
  const before = [home.bytes(), store.bytes(), home.files()];
  for (const id of ["nobody", "one", "id-one ", "__proto__"]) {
    await rejection(client.setActiveAccount(id), "ERR_QWEN_INVALID_ARGUMENT");
    await rejection(client.removeAccount(id), "ERR_QWEN_INVALID_ARGUMENT");
    await rejection(client.getAccessToken({ accountId: id }), "ERR_QWEN_INVALID_ARGUMENT");
    await rejection(client.login({ replace: id, openBrowser: false }), "ERR_QWEN_INVALID_ARGUMENT");
  }
  for (const id of [undefined, null, 0, "", {}]) {
    await rejection(client.setActiveAccount(id), "ERR_QWEN_INVALID_ARGUMENT");
    await rejection(client.removeAccount(id), "ERR_QWEN_INVALID_ARGUMENT");
  }
  assert.deepEqual([home.bytes(), store.bytes(), home.files()], before);
});

test("a login with replace renews an account: same id, name and age, another token", async (t) => {
  const { servers, home, store, client } = await setUpAccounts(t, {
    tokens: { two: EXPIRED },
    server: { interval: 0.05, autoApprove: true },
  });
  servers.one.setQuota("one", 0);
  await chat(client, "hi");
  const renewed = await client.login({ replace: "id-one", openBrowser: false });
  assert.deepEqual([renewed.id, renewed.label, renewed.active], ["id-one", "one", true]);
  assert.deepEqual([renewed.createdAt, renewed.state], [1_700_000_000_000, "ready"]);
  assert.equal((await client.accounts()).length, 3);
  assert.equal(home.read().access_token, store.read().accounts[0].token.access_token);
  const named = await client.login({ replace: "id-two", label: "second", openBrowser: false });
  assert.deepEqual([named.id, named.label, named.active], ["id-two", "second", true]);
  assert.deepEqual(
    (await client.accounts()).map(({ label, active }) => [label, active]),
    [
      ["one", false],
      ["second", true],
      ["three", false],
    ],
  );
});

test("names of accounts: given, numbered, shared, in any script, and invalid ones", async (t) => {
  const server = await startServer(t, { interval: 0.05, autoApprove: true });
  const home = temporaryHome(t);
  const { client } = startClient(t, { env: home.env, oauth: { baseUrl: server.url } });
  const login = (label) => client.login({ openBrowser: false, ...(label !== undefined && { label }) });
  const labels = ["work", undefined, "work", "\u4e2d\u6587 \u00fc \u{1f600}"];
  for (const label of labels) await login(label);
  const listed = await client.accounts();
  assert.deepEqual([listed[0].label, listed[2].label, listed[3].label], ["work", "work", labels[3]]);
  assert.ok(listed[1].label.length > 0);
  assert.equal(new Set(listed.map(({ id }) => id)).size, 4);
  const { logins } = server.stats;
  for (const label of ["", " ", "a\nb", "\u001b[31m", 7, null]) {
    await rejection(login(label), "ERR_QWEN_INVALID_ARGUMENT");
  }
  assert.equal(server.stats.logins, logins);
});
