import assert from "node:assert/strict";
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { NAMES, recordOf, setUpAccounts, storeOf } from "./support/accounts.mjs";
import { startChild } from "./support/child.mjs";
import {
  assertQwenError,
  chat,
  EXPIRED,
  qwen,
  rejection,
  startClient,
  startServer,
  temporaryHome,
  until,
} from "./support/harness.mjs";
import { CREDENTIALS, IDS, LEGACY, STORE } from "./support/original-files.mjs";

const posix = process.platform === "win32" ? "links and modes are POSIX" : false;
const accountOf = (response) => response.headers.get("x-qwen-account");
const copy = (value) => structuredClone(value);
const repairs = (events) => events.filter(({ type }) => type === "store-repaired");

/** A home directory as the original left it, and a server that knows its tokens. */
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

/** All below a directory: names, kinds, contents. */
function everythingBelow(directory) {
  const entries = readdirSync(directory, { recursive: true }).sort();
  return entries.map((name) => {
    const path = join(directory, name);
    const info = lstatSync(path);
    if (info.isSymbolicLink()) return [name, "link", readlinkSync(path)];
    return info.isFile() ? [name, info.mtimeMs, readFileSync(path, "base64")] : [name, "directory"];
  });
}

test("the original's store is read as it is, and not rewritten for being read", async (t) => {
  const { server, home, client } = await setUpOriginal(t);
  const accounts = await client.accounts();
  assert.deepEqual(
    accounts.map(({ id, active, createdAt, expiresAt }) => ({ id, active, createdAt, expiresAt })),
    STORE.accounts.map(({ id, token, createdAt }, index) => ({
      id,
      active: index === 0,
      createdAt,
      expiresAt: token.expiry_date,
    })),
  );
  assert.equal(new Set(accounts.map(({ label }) => label)).size, 3);
  const response = await chat(client, "hi");
  assert.deepEqual([response.status, accountOf(response)], [200, IDS[0]]);
  assert.equal(server.seen("chat")[0].headers.authorization, "Bearer access-one-AAAA");
  assert.deepEqual(home.read(), CREDENTIALS);
});

test("the original's tokens are for portal.qwen.ai, and say so", async (t) => {
  const { settings } = await setUpOriginal(t);
  const { baseUrl: _, ...rest } = settings;
  const { client } = startClient(t, rest);
  for (const { baseUrl } of await client.accounts()) assert.equal(baseUrl, "https://portal.qwen.ai/v1");
});

test("the original's cooldowns hold, and its accounts are used as they were", async (t) => {
  const store = copy(STORE);
  const free = Date.now() + 600_000;
  store.accounts[1].exhaustedUntil = free;
  const { server, client, store: file } = await setUpOriginal(t, store);
  server.setQuota("access-one-AAAA", 0);
  const response = await chat(client, "hi");
  assert.deepEqual([response.status, accountOf(response)], [200, IDS[2]]);
  const [, two] = await client.accounts();
  assert.deepEqual([two.state, two.coolingUntil], ["cooling", free]);
  const after = file.read();
  assert.equal(after.version, 1);
  assert.equal(after.activeAccountId, IDS[0]);
  assert.deepEqual(after.accounts[1], store.accounts[1]);
  for (const [index, { id, token }] of STORE.accounts.entries()) {
    assert.deepEqual([after.accounts[index].id, after.accounts[index].token], [id, token]);
  }
});

test("the original's store without a credentials file is enough", async (t) => {
  const { home, client } = await setUpOriginal(t, STORE, null);
  assert.equal(accountOf(await chat(client, "hi")), IDS[0]);
  assert.ok(!existsSync(home.path), "whether the qwen CLI is logged in is not ours to say");
  await client.setActiveAccount(IDS[2]);
  assert.equal(home.read().refresh_token, "refresh-three-BBBB");
});

test("after a refresh no refresh token is left anywhere but in its token", async (t) => {
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

test("fields that are not ours survive a refresh, a quota error and a choice", async (t) => {
  const store = copy(STORE);
  store["x-top"] = { deep: [1, "\u00fc", null] };
  store.accounts[0]["x-record"] = ["kept"];
  store.accounts[0].token["x-token"] = "kept";
  store.accounts[0].token.expiry_date = 1;
  const { server, client, store: file } = await setUpOriginal(t, store, store.accounts[0].token);
  await client.getAccessToken();
  server.setQuota("access-one-AAAA", 0);
  await chat(client, "hi");
  await client.setActiveAccount(IDS[2]);
  const after = file.read();
  assert.deepEqual(after["x-top"], store["x-top"]);
  assert.deepEqual(after.accounts[0]["x-record"], ["kept"]);
  assert.equal(after.accounts[0].token["x-token"], "kept");
  assert.notEqual(after.accounts[0].token.access_token, "access-one-AAAA");
  assert.ok(after.accounts[0].exhaustedUntil > Date.now());
});

for (const [form, contents] of Object.entries(LEGACY)) {
  test(`the old token file, ${form}, is taken over once and left where it is`, async (t) => {
    const server = await startServer(t);
    const tokens = { access_token: "access-legacy-AAAA", refresh_token: "refresh-legacy-BBBB" };
    server.issueToken({ account: "legacy", ...tokens });
    const home = temporaryHome(t);
    const path = join(home.home, ".opencode/qwen/oauth_token.json");
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, contents);
    const settings = { env: home.env, baseUrl: server.url, oauth: { baseUrl: server.url } };
    const { client } = startClient(t, settings);
    const accounts = await client.accounts();
    assert.deepEqual(
      accounts.map(({ active, state, expiresAt }) => ({ active, state, expiresAt })),
      [{ active: true, state: "ready", expiresAt: 1_893_456_000_000 }],
    );
    assert.equal((await chat(client, "hi")).status, 200);
    assert.equal(server.seen("chat")[0].headers.authorization, "Bearer access-legacy-AAAA");
    const { client: again } = startClient(t, settings);
    assert.deepEqual(await again.accounts(), accounts);
    assert.equal(readFileSync(path, "utf8"), contents);
    await again.removeAccount(accounts[0].id);
    const { client: later } = startClient(t, settings);
    assert.deepEqual(await later.accounts(), []);
    assert.equal(readFileSync(path, "utf8"), contents);
  });
}

test("an old token file beside a newer login is not redeemed, and does not take its place", async (t) => {
  const server = await startServer(t);
  const home = temporaryHome(t);
  home.write(server.issueToken());
  const path = join(home.home, ".opencode/qwen/oauth_token.json");
  mkdirSync(join(path, ".."), { recursive: true });
  const expired = { access_token: "old-access", refresh_token: "old-refresh", expiry_date: 1 };
  writeFileSync(path, JSON.stringify(expired));
  const { client } = startClient(t, { env: home.env, oauth: { baseUrl: server.url } });
  const { length } = await client.accounts();
  assert.ok(length >= 1);
  for (let turn = 0; turn < 2; turn += 1) assert.equal((await chat(client, "hi")).status, 200);
  server.revokeAllAccess();
  await (await chat(client, "hi")).text();
  assert.ok(server.seen("token").every(({ body }) => body.refresh_token !== "old-refresh"));
});

/** What a store can become, and how many of its three accounts must still be there. */
const DAMAGED = {
  "an empty store": ["", 1],
  "white space": [" \n\t", 1],
  "a store cut in the third account": [JSON.stringify(STORE, null, 2).slice(0, -150), 2],
  "a store cut in the first account": [JSON.stringify(STORE, null, 2).slice(0, 120), 1],
  "two stores in one": [JSON.stringify(STORE) + JSON.stringify(STORE).slice(0, 700), 3],
  "binary data": [Buffer.from({ length: 4096 }, (_, index) => (index * 151 + 7) % 256), 1],
  "a file of zeros": [Buffer.alloc(10_000), 1],
  "a store of another version": [JSON.stringify({ ...STORE, version: 2, more: { than: "ours" } }), 3],
  "a store of version 1.5": [JSON.stringify({ ...STORE, version: 1.5 }), 3],
  "a store without a version": [JSON.stringify({ ...STORE, version: undefined }), 3],
  "JSON of another kind": ["[1, 2, 3]", 1],
  "accounts that are none": [JSON.stringify({ ...STORE, accounts: [1, "two", null] }), 1],
  "accounts that are an object": [JSON.stringify({ ...STORE, accounts: {} }), 1],
  "20 MB": [Buffer.alloc(20_000_000, JSON.stringify(STORE)), 1],
  "a great depth": ["[".repeat(200_000), 1],
  "braces without end": ["{".repeat(300_000), 1],
};

for (const [what, [contents, least]] of Object.entries(DAMAGED)) {
  test(`${what} is moved aside whole, told once, and work goes on`, async (t) => {
    const { home, store, client, events, settings } = await setUpOriginal(t, contents);
    const before = store.bytes();
    const [response, accounts] = [await chat(client, "hi"), await client.accounts()];
    assert.equal(response.status, 200);
    assert.ok(accounts.length >= least, `${accounts.length} accounts`);
    assert.ok(accounts.some(({ active }) => active));
    const aside = home.files().filter((name) => name.startsWith("oauth_accounts.json.corrupt-"));
    assert.equal(aside.length, 1);
    assert.ok(readFileSync(join(home.directory, aside[0])).equals(before), "not a byte is lost");
    assert.equal(repairs(events).length, 1);
    assert.ok(repairs(events)[0].message.includes(aside[0]), repairs(events)[0].message);
    assert.match(repairs(events)[0].code, /^ERR_QWEN_STORE_(?:CORRUPT|UNSUPPORTED)$/);
    assert.deepEqual(home.read(), CREDENTIALS);
    if (existsSync(store.path)) assert.equal(store.read().version, 1);
    if (!posix) assert.equal(statSync(join(home.directory, aside[0])).mode & 0o077, 0);
    const { client: later, events: laterEvents } = startClient(t, settings);
    assert.deepEqual(await later.accounts(), accounts);
    await later.setActiveAccount(accounts.at(-1).id);
    assert.equal((await chat(later, "hi")).status, 200);
    assert.deepEqual(repairs(laterEvents), []);
    assert.equal(home.files().filter((name) => name.includes(".corrupt-")).length, 1);
  });
}

test("a damaged store without a credentials file: what can be read of it is used", async (t) => {
  const contents = JSON.stringify(STORE, null, 2).slice(0, -150);
  const { client, home, store } = await setUpOriginal(t, contents, null);
  assert.equal((await chat(client, "hi")).status, 200);
  assert.equal((await client.accounts()).length, 2);
  assert.equal(store.read().accounts.length, 2);
  assert.ok(home.files().some((name) => name.includes(".corrupt-")));
});

test("a damaged store of nothing, and nobody logged in", async (t) => {
  const { client, home, events } = await setUpOriginal(t, "", null);
  assert.deepEqual(await client.accounts(), []);
  await rejection(chat(client, "hi"), "ERR_QWEN_NOT_LOGGED_IN");
  assert.equal(repairs(events).length, 1);
  assert.equal(home.files().filter((name) => name.includes(".corrupt-")).length, 1);
});

test("a directory in the store's place is moved aside with all that is in it", async (t) => {
  const server = await startServer(t);
  const home = temporaryHome(t);
  home.write(server.issueToken());
  const path = join(home.directory, "oauth_accounts.json");
  mkdirSync(path);
  writeFileSync(join(path, "note"), "somebody's own");
  const { client, events } = startClient(t, { env: home.env, oauth: { baseUrl: server.url } });
  assert.equal((await chat(client, "hi")).status, 200);
  const aside = home.files().find((name) => name.includes(".corrupt-"));
  assert.equal(readFileSync(join(home.directory, aside, "note"), "utf8"), "somebody's own");
  assert.equal(repairs(events).length, 1);
});

test("two damaged stores in a row are both kept", async (t) => {
  const { client, home, store } = await setUpOriginal(t, "first");
  await client.accounts();
  store.write("second");
  await client.accounts();
  const aside = home.files().filter((name) => name.includes(".corrupt-"));
  const kept = aside.map((name) => readFileSync(join(home.directory, name), "utf8"));
  assert.deepEqual(kept.sort(), ["first", "second"]);
});

test("many clients that find a damaged store move it aside once", async (t) => {
  const { home, settings } = await setUpOriginal(t, "broken");
  const clients = Array.from({ length: 8 }, () => startClient(t, settings));
  await Promise.all(clients.map(({ client }) => client.accounts()));
  assert.equal(home.files().filter((name) => name.includes(".corrupt-")).length, 1);
  assert.equal(clients.flatMap(({ events }) => repairs(events)).length, 1);
});

test("requests that come while a damaged store is moved aside are answered", async (t) => {
  for (let round = 0; round < 20; round += 1) {
    const { client, settings } = await setUpOriginal(t, JSON.stringify(STORE, null, 2).slice(0, -150));
    const { client: other } = startClient(t, settings);
    const calls = [client.accounts(), chat(client, "hi"), chat(other, "hi"), chat(client, "hi")];
    const [, ...responses] = await Promise.all(calls);
    assert.deepEqual(
      responses.map(({ status }) => status),
      [200, 200, 200],
    );
  }
});

test("ids that are missing, doubled or no strings become ids of their own", async (t) => {
  const store = copy(STORE);
  store.accounts[1].id = IDS[0];
  delete store.accounts[2].id;
  store.accounts.push({ ...copy(STORE.accounts[2]), id: 5 });
  store.accounts[3].token = {
    ...STORE.accounts[2].token,
    access_token: "four",
    refresh_token: "refresh-four",
  };
  const { client, store: file } = await setUpOriginal(t, store);
  const accounts = await client.accounts();
  assert.equal(new Set(accounts.map(({ id }) => id)).size, 4);
  assert.equal(accounts[0].id, IDS[0], "the first one keeps it");
  assert.equal(accountOf(await chat(client, "hi")), IDS[0]);
  await client.setActiveAccount(accounts[1].id);
  assert.equal(accountOf(await chat(client, "hi")), accounts[1].id);
  const tokens = file.read().accounts.map(({ token }) => token.refresh_token);
  assert.deepEqual(tokens, ["refresh-one-BBBB", "refresh-two-BBBB", "refresh-three-BBBB", "refresh-four"]);
});

test("times that can't be are no cooldown, and no crash", async (t) => {
  for (const odd of [
    8.64e15,
    1e300,
    -5,
    "soon",
    null,
    {},
    Number.MAX_SAFE_INTEGER,
    Date.now() + 400 * 86_400_000,
  ]) {
    const store = copy(STORE);
    Object.assign(store.accounts[0], { exhaustedUntil: odd, createdAt: odd, updatedAt: odd });
    store.degradedAt = odd;
    const { server, client, events } = await setUpOriginal(t, store);
    const { state, coolingUntil, createdAt } = await client.activeAccount();
    assert.deepEqual([state, coolingUntil, typeof createdAt], ["ready", undefined, "number"], String(odd));
    for (let turn = 0; turn < 3; turn += 1) {
      assert.equal(accountOf(await chat(client, "hi")), IDS[0], String(odd));
    }
    assert.ok(events.length <= 1, `${odd} is told ${events.length} times: ${events[0]?.message}`);
    server.setQuota("access-one-AAAA", 0);
    assert.equal((await chat(client, "hi")).status, 200);
    assert.equal((await client.activeAccount()).state, "cooling", String(odd));
  }
});

test("an active account that is not there is replaced by one that is", async (t) => {
  for (const activeAccountId of ["nobody", null, 7, undefined]) {
    const { client } = await setUpOriginal(t, { ...STORE, activeAccountId });
    assert.equal((await client.activeAccount()).id, IDS[0]);
    assert.equal(accountOf(await chat(client, "hi")), IDS[0]);
  }
});

test("accounts without usable tokens stay in the store and are passed over", async (t) => {
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

test("a token that names a host which no token may go to is not sent there", async (t) => {
  const store = copy(STORE);
  const elsewhere = await startServer(t);
  store.accounts[0].token.resource_url = "http://portal.qwen.ai";
  store.accounts[0].resource_url = "http://portal.qwen.ai";
  store.accounts[1].token.resource_url = `https://user:secret@127.0.0.1:${elsewhere.port}`;
  store.accounts[2].token.resource_url = "javascript:alert(1)";
  const { settings } = await setUpOriginal(t, store, store.accounts[0].token);
  const { client } = startClient(t, { ...settings, baseUrl: undefined });
  for (const id of IDS) {
    await client.setActiveAccount(id);
    const error = await chat(client, "hi").catch((reason) => reason);
    assertQwenError(error, "ERR_QWEN_CREDENTIALS_INVALID");
    assert.doesNotMatch(error.message, /secret/);
  }
  assert.equal(elsewhere.stats.connections, 0);
});

test(
  "a store that can't be written does not stop a chat",
  { skip: posix || (process.getuid() === 0 && "root may write anywhere") },
  async (t) => {
    const { chmodSync } = await import("node:fs");
    const { client, home } = await setUpOriginal(t);
    chmodSync(home.directory, 0o500);
    t.after(() => chmodSync(home.directory, 0o700));
    assert.equal((await chat(client, "hi")).status, 200);
  },
);

const refusedPaths = (home) => {
  const inside = (name) => join(home.directory, name);
  return {
    outside: join(home.home, "store.json"),
    "outside, from the home directory": "~/store.json",
    "the root": "/store.json",
    up: "../store.json",
    "down and up": "sub/../../store.json",
    "up from what is not there": "missing/../../store.json",
    "a neighbour with the same beginning": `${home.directory}-other/store.json`,
    "a link that leads out": inside("out.json"),
    "a dangling link that leads out": inside("dangling.json"),
    "a directory that is a link": inside("away/store.json"),
    "the directory itself": home.directory,
    "the credentials": "oauth_creds.json",
    "the credentials in other letters": "OAuth_Creds.JSON",
    "the credentials by a way around": "sub/../oauth_creds.json",
    "a link to the credentials": "alias.json",
    "another name of the credentials' file": "hard.json",
    "the CLI's settings": "settings.json",
    "a link to the CLI's settings": "linked-settings.json",
    "the CLI's lock": "oauth_creds.lock",
    "our lock": "oauth_accounts.flock",
    "no JSON": "accounts.txt",
    "no extension": "accounts",
    "only an extension": ".json",
  };
};

test("a store may be nowhere but in a file of its own in the Qwen directory", { skip: posix }, async (t) => {
  const home = temporaryHome(t);
  const server = await startServer(t);
  home.write(server.issueToken());
  mkdirSync(join(home.directory, "sub"));
  mkdirSync(`${home.directory}-other`);
  mkdirSync(join(home.home, "elsewhere"));
  writeFileSync(join(home.home, "elsewhere/out.json"), JSON.stringify(STORE));
  writeFileSync(join(home.directory, "settings.json"), "{}");
  symlinkSync("../elsewhere/out.json", join(home.directory, "out.json"));
  symlinkSync("../elsewhere/none.json", join(home.directory, "dangling.json"));
  symlinkSync("../elsewhere", join(home.directory, "away"));
  symlinkSync("oauth_creds.json", join(home.directory, "alias.json"));
  symlinkSync("settings.json", join(home.directory, "linked-settings.json"));
  linkSync(home.path, join(home.directory, "hard.json"));
  const before = everythingBelow(home.home);
  const oauth = { baseUrl: server.url };
  for (const [what, path] of Object.entries(refusedPaths(home))) {
    for (const options of [
      { accountsPath: path },
      { env: { ...home.env, OPENCODE_QWEN_ACCOUNTS_PATH: path } },
    ]) {
      const name = options.accountsPath ? "accountsPath" : "OPENCODE_QWEN_ACCOUNTS_PATH";
      let error;
      try {
        qwen.createClient({ env: home.env, oauth, ...options }).close();
      } catch (reason) {
        error = reason;
      }
      assert.ok(error, `${what} was taken (${name})`);
      assertQwenError(error, "ERR_QWEN_PATH_NOT_ALLOWED", { retryable: false });
      assert.ok(error.message.includes(name), error.message);
    }
  }
  assert.deepEqual(everythingBelow(home.home), before);
  assert.equal(server.stats.connections, 0);
});

test("a store of another name is used, with its locks beside it, and the usual one is left alone", async (t) => {
  for (const given of ["mine.json", "deep/er/mine.json", "absolute"]) {
    const server = await startServer(t, { interval: 0.05, autoApprove: true });
    const home = temporaryHome(t);
    home.write(server.issueToken());
    const usual = storeOf(home).write(STORE);
    const accountsPath = given === "absolute" ? join(home.directory, "mine.json") : given;
    const env = { ...home.env, OPENCODE_QWEN_ACCOUNTS_PATH: accountsPath };
    const { client } = startClient(t, { env, oauth: { baseUrl: server.url } });
    await client.login({ label: "second", openBrowser: false });
    const store = JSON.parse(readFileSync(join(home.directory, given === "absolute" ? "mine.json" : given)));
    assert.equal(store.accounts.length, 2);
    assert.deepEqual(storeOf(home).bytes(), usual);
    assert.ok(!home.files().includes("oauth_accounts.flock"));
  }
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

test("a number, name or switch that can't be read is told once, and its default used", async (t) => {
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

test("what an empty variable or a spelling of a switch means is not told", async (t) => {
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

test("without a store a token that the CLI has rotated is simply used", async (t) => {
  const server = await startServer(t);
  const home = temporaryHome(t);
  home.write(server.issueToken());
  const { client, events } = startClient(t, { env: home.env, oauth: { baseUrl: server.url } });
  const { id } = await client.activeAccount();
  await chat(client, "hi");
  for (let turn = 0; turn < 3; turn += 1) {
    const rotated = server.issueToken();
    home.write(rotated);
    const response = await chat(client, "hi");
    assert.deepEqual([response.status, accountOf(response)], [200, id]);
    assert.equal(server.seen("chat").at(-1).headers.authorization, `Bearer ${rotated.access_token}`);
    assert.deepEqual(home.read(), rotated);
  }
  assert.equal((await client.accounts()).length, 1);
  assert.ok(!home.files().includes("oauth_accounts.json"));
  assert.deepEqual(events, []);
});

test("with a store a token that the CLI has rotated is used, and neither overwritten nor its past redeemed", async (t) => {
  const { servers, home, store, client, tokens, events } = await setUpAccounts(t, { shared: true });
  await chat(client, "hi");
  const rotated = { ...servers.one.issueToken({ account: "one" }), "x-cli": "its own" };
  const written = home.write(rotated);
  const response = await chat(client, "hi");
  assert.equal(response.status, 200);
  assert.equal(servers.one.seen("chat").at(-1).headers.authorization, `Bearer ${rotated.access_token}`);
  const active = await client.activeAccount();
  assert.deepEqual([active.id, active.label], [accountOf(response), "one"]);
  assert.deepEqual(home.bytes(), written);
  assert.ok(store.bytes().includes(tokens.one.refresh_token), "the older one is kept");
  assert.equal(events.filter(({ type }) => type === "store-repaired").length, 1);

  // Now both have expired: only the new one may be redeemed.
  home.write({ ...rotated, expiry_date: 1 });
  const document = store.read();
  for (const record of document.accounts) record.token.expiry_date = 1;
  store.write(document);
  servers.one.revokeAllAccess("one");
  for (let turn = 0; turn < 2; turn += 1) assert.equal((await chat(client, "hi")).status, 200);
  const redeemed = servers.one.seen("token").map(({ body }) => body.refresh_token);
  assert.deepEqual(redeemed, [rotated.refresh_token]);
  assert.notEqual(home.read().refresh_token, rotated.refresh_token);
  assert.equal(home.read()["x-cli"], "its own");
  assert.equal(servers.one.stats.doubleRedemptions, 0);
});

test("a newer access token of the same login in the credentials file is the account's", async (t) => {
  const { servers, home, client, tokens, store } = await setUpAccounts(t, { shared: true });
  await client.accounts();
  const newer = servers.one.issueToken({ account: "one", refresh_token: tokens.one.refresh_token });
  home.write({ ...newer, expiry_date: tokens.one.expiry_date + 60_000 });
  assert.equal(accountOf(await chat(client, "hi")), "id-one");
  assert.equal(servers.one.seen("chat")[0].headers.authorization, `Bearer ${newer.access_token}`);
  assert.equal(store.read().accounts[0].token.access_token, newer.access_token);
  assert.equal((await client.accounts()).length, 3);
});

test("a credentials file with an older or a spent token of an account is put right", async (t) => {
  const { home, client, store, tokens } = await setUpAccounts(t, { shared: true, tokens: { one: EXPIRED } });
  const spent = home.bytes();
  await client.getAccessToken();
  const current = home.read();
  assert.notEqual(current.refresh_token, tokens.one.refresh_token);
  home.write(spent);
  assert.equal((await chat(client, "hi")).status, 200);
  assert.equal(home.read().refresh_token, current.refresh_token);
  assert.equal((await client.accounts()).length, 3);
  home.write({ ...current, access_token: "older", expiry_date: current.expiry_date - 60_000 });
  assert.equal((await chat(client, "hi")).status, 200);
  assert.equal(home.read().access_token, store.read().accounts[0].token.access_token);
});

test("a credentials file that is gone is not written again by quota, nor by being looked at", async (t) => {
  const { servers, home, client } = await setUpAccounts(t);
  await client.accounts();
  const { unlinkSync } = await import("node:fs");
  unlinkSync(home.path);
  servers.one.setQuota("one", 0);
  assert.equal(accountOf(await chat(client, "hi")), "id-two");
  assert.ok(!existsSync(home.path));
});

/** Does something in a process of its own, at the moment when it is told. */
const inStep = (t, settings, data) =>
  startChild(
    t,
    "node",
    async ({ load, report, told, data }) => {
      const client = (await load()).createClient(data.settings);
      const init = {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "hi" }] }),
      };
      const ask = async () => {
        const response = await client.fetch(`${client.baseUrl}/chat/completions`, init);
        await response.text();
        return response.headers.get("x-qwen-account");
      };
      for (let turn = 0; turn < data.turnsBefore; turn += 1) await ask();
      await client.accounts();
      report("ready");
      await told();
      report(
        data.refresh ? (await client.getAccessToken({ accountId: data.refresh })).accessToken : await ask(),
      );
    },
    { data: { settings, turnsBefore: 0, ...data } },
  );

test("two processes that exhaust different accounts at once keep each other's news", async (t) => {
  const { servers, client, settings, store, tokens } = await setUpAccounts(t, {
    client: { rotation: "round-robin", degrade: false },
  });
  const children = [0, 1].map((turnsBefore) => inStep(t, settings, { turnsBefore }));
  await Promise.all(children.map((child) => child.report(0)));
  let release;
  const released = new Promise((resolve) => (release = resolve));
  for (const name of ["one", "two"])
    servers[name].script("chat", [{ do: "quota", times: Infinity, delay: released }]);
  const [before] = [servers.one.stats.chats];
  for (const child of children) child.tell();
  await servers.one.waitFor("chat", { count: before + 1 });
  await servers.two.waitFor("chat");
  release();
  for (const child of children) assert.equal((await child.end())[1], "id-three");
  const states = (await client.accounts()).map(({ state }) => state);
  assert.deepEqual(states, ["cooling", "cooling", "ready"]);
  for (const [index, name] of NAMES.entries()) {
    assert.equal(store.read().accounts[index].token.refresh_token, tokens[name].refresh_token);
  }
});

test("processes that refresh different accounts at once lose no token", async (t) => {
  const { servers, client, settings, store, home } = await setUpAccounts(t, {
    shared: true,
    tokens: { one: EXPIRED, two: EXPIRED, three: EXPIRED },
  });
  servers.one.script("token", [{ do: "delay", ms: 50, times: Infinity }]);
  const children = [...NAMES, ...NAMES].map((name) => inStep(t, settings, { refresh: `id-${name}` }));
  await Promise.all(children.map((child) => child.report(0)));
  for (const child of children) child.tell();
  const given = await Promise.all(children.map(async (child) => (await child.end())[1]));
  const kept = store.read().accounts.map(({ token }) => token.access_token);
  assert.deepEqual(given, [...kept, ...kept]);
  assert.equal(home.read().access_token, kept[0]);
  const { redemptions, doubleRedemptions } = servers.one.stats;
  assert.deepEqual({ redemptions, doubleRedemptions }, { redemptions: 3, doubleRedemptions: 0 });
  assert.deepEqual(
    (await client.accounts()).map(({ state }) => state),
    ["ready", "ready", "ready"],
  );
});

test("a login in one process is an account in another, and a removal too", async (t) => {
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
