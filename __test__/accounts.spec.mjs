import assert from "node:assert/strict";
import { existsSync, statSync } from "node:fs";
import { test } from "node:test";
import {
  assertNothingStrayed,
  countBy,
  NAMES,
  QUOTA_BUT_DEGRADED,
  setUpAccounts,
  storeOf,
  told,
} from "./support/accounts.mjs";
import { inChild } from "./support/child.mjs";
import {
  chat,
  EXPIRED,
  rejection,
  sleep,
  startClient,
  startServer,
  temporaryHome,
} from "./support/harness.mjs";

const posix = process.platform === "win32" ? "file modes are POSIX" : false;
const HOUR = 3_600_000;
const COOLDOWN = 1_800_000;
const errorOf = async (response) => (await response.json()).error;
const answerOf = async (response) => (await response.json()).choices[0].message.content;
const accountOf = (response) => response.headers.get("x-qwen-account");
const states = async (client) =>
  Object.fromEntries((await client.accounts()).map(({ label, state }) => [label, state]));
const bodies = (servers) => servers.flatMap((server) => server.seen("chat").map(({ body }) => body));
/** An instant that lies so many ms after one of two that it was set between. */
function assertInstant(instant, since, ms, until = Date.now()) {
  assert.ok(instant >= since + ms && instant <= until + ms, `${instant - since} ms instead of ${ms}`);
}

const LONG = {
  max_tokens: 8000,
  messages: [
    { role: "system", content: "You are brief." },
    ...Array.from({ length: 30 }, (_, index) => [
      { role: "user", content: `question ${index} ${"x".repeat(2000)}` },
      { role: "assistant", content: `answer ${index}` },
    ]).flat(),
    { role: "user", content: "the last question" },
    {
      role: "assistant",
      content: null,
      tool_calls: [{ id: "call_1", type: "function", function: { name: "look", arguments: '{"at":"sky"}' } }],
    },
    { role: "tool", tool_call_id: "call_1", content: "it is blue" },
  ],
  tools: [
    { type: "function", function: { name: "look", parameters: { type: "object", properties: {} } } },
    { type: "function", function: { name: "listen", parameters: { type: "object", properties: {} } } },
  ],
};

/** The same without tools: a smaller request with tools is sent only if its answer is not cut. */
const TALK = { ...LONG, tools: undefined };

/** A server for OAuth, one for the API of each account, and a client that has logged in to all of them. */
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

test("a token goes to its own account's host alone, whatever URL the caller uses", async (t) => {
  const { client, servers, accounts } = await logInThrice(t);
  for (const name of NAMES) {
    await client.setActiveAccount(accounts[name].id);
    for (const base of [client.baseUrl, ...Object.values(servers).map(({ apiBaseUrl }) => apiBaseUrl)]) {
      const response = await client.fetch(`${base}/models`);
      assert.deepEqual([response.status, accountOf(response)], [200, accounts[name].id]);
      assert.equal(servers[name].requests.at(-1).account, name);
    }
  }
  const elsewhere = await startServer(t);
  await rejection(client.fetch(`${elsewhere.apiBaseUrl}/models`), "ERR_QWEN_INVALID_ARGUMENT");
  assert.equal(elsewhere.stats.connections, 0);
  assertNothingStrayed(Object.values(servers));
});

test("the payload of an account that is out of quota goes to the next, the same, to its own host", async (t) => {
  const { servers, all, home, store, client, events } = await setUpAccounts(t);
  const before = home.bytes();
  assert.equal(accountOf(await chat(client, "first")), "id-one");
  servers.one.setQuota("one", 0);
  const since = Date.now();
  const response = await chat(client, "second", LONG, {
    headers: { "x-mine": "kept", "content-type": "application/json" },
  });
  assert.deepEqual([response.status, accountOf(response)], [200, "id-two"]);
  assert.equal(await answerOf(response), "The tool answered: it is blue");
  assert.deepEqual(
    ["x-qwen-degraded", "x-qwen-cli-fallback", "x-qwen-error"].map((name) => response.headers.get(name)),
    [null, null, null],
  );
  assert.equal(response.url, `${servers.two.apiBaseUrl}/chat/completions`);
  const [first, second] = [servers.one.seen("chat")[1], servers.two.seen("chat")[0]];
  assert.deepEqual(second.body, first.body);
  assert.ok(first.body.metadata.promptId);
  assert.equal(second.body.max_tokens, 8000);
  const { authorization: mine, host: _, ...headers } = first.headers;
  const { authorization: theirs, host: __, ...others } = second.headers;
  assert.deepEqual(others, headers);
  assert.notEqual(mine, theirs);
  assert.equal(headers["x-mine"], "kept");
  assertNothingStrayed(all);

  const exhausted = events.find(({ type }) => type === "exhausted");
  assertInstant(exhausted.until, since, COOLDOWN);
  assert.match(exhausted.message, /one/);
  assert.deepEqual(told(events), [
    { type: "exhausted", accountId: "id-one", label: "one", code: "ERR_QWEN_QUOTA_EXHAUSTED" },
    { type: "switched", accountId: "id-two", label: "two", fromAccountId: "id-one" },
  ]);
  const [one, two] = await client.accounts();
  assert.deepEqual([one.active, one.state, one.coolingUntil], [true, "cooling", exhausted.until]);
  assert.deepEqual([two.active, two.state, two.coolingUntil], [false, "ready", undefined]);
  assert.equal(store.read().accounts[0].exhaustedUntil, exhausted.until);
  assert.equal(store.read().accounts[0].lastErrorCode, "insufficient_quota");
  assert.deepEqual(home.bytes(), before, "the qwen CLI keeps its account");

  for (let turn = 0; turn < 3; turn += 1) assert.equal(accountOf(await chat(client, "third")), "id-two");
  assert.deepEqual(
    all.map((server) => server.stats.chats),
    [2, 4, 0],
  );
  assert.equal(events.length, 2);
});

test("a first request that is switched is told as a switch", async (t) => {
  const { servers, client, events } = await setUpAccounts(t);
  servers.one.setQuota("one", 0);
  assert.equal(accountOf(await chat(client, "hi")), "id-two");
  assert.deepEqual(told(events, "switched"), [
    { type: "switched", accountId: "id-two", label: "two", fromAccountId: "id-one" },
  ]);
});

test("many requests at once that find an account out of quota are all answered, and it is told once", async (t) => {
  const { servers, all, client, events } = await setUpAccounts(t);
  servers.one.setQuota("one", 0);
  const responses = await Promise.all(Array.from({ length: 10 }, () => chat(client, "hi")));
  assert.deepEqual(
    [...new Set(responses.map((response) => `${response.status} ${accountOf(response)}`))],
    ["200 id-two"],
  );
  assert.equal(told(events, "exhausted").length, 1);
  assertNothingStrayed(all);
});

test("a 403 for the quota switches too, a stream as well, and not only a chat", async (t) => {
  const { servers, all, client } = await setUpAccounts(t);
  servers.one.setQuota("one", 0, { as403: true, code: "quota_exceeded" });
  const stream = await chat(client, "SAY 3", { stream: true });
  assert.equal(accountOf(stream), "id-two");
  assert.match(await stream.text(), /word1 .*word2 .*word3.*\[DONE\]/s);
  servers.two.setQuota("two", 0);
  const response = await client.fetch(`${client.baseUrl}/embeddings`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "text-embedding-v4", input: "x" }),
  });
  assert.deepEqual([response.status, accountOf(response)], [200, "id-three"]);
  assertNothingStrayed(all);
});

test("a Retry-After that is longer than the cooldown counts, a shorter one does not", async (t) => {
  const cases = [
    [{ retryAfter: 7200 }, 2 * HOUR],
    [{ retryAfter: 5 }, COOLDOWN],
    [{ retryAfter: "soon" }, COOLDOWN],
  ];
  for (const [refusal, expected] of cases) {
    const { servers, client, events } = await setUpAccounts(t);
    servers.one.setQuota("one", 0, refusal);
    const since = Date.now();
    assert.equal((await chat(client, "hi")).status, 200);
    const { coolingUntil } = await client.activeAccount();
    assertInstant(coolingUntil, since, expected);
    assert.equal(events.find(({ type }) => type === "exhausted").until, coolingUntil);
  }
  const { servers, client } = await setUpAccounts(t);
  const date = new Date(Math.ceil(Date.now() / 1000) * 1000 + 3 * HOUR);
  servers.one.setQuota("one", 0, { retryAfter: date.toUTCString() });
  await chat(client, "hi");
  const { coolingUntil } = await client.activeAccount();
  assert.ok(Math.abs(coolingUntil - date) < 2000, `${new Date(coolingUntil)} instead of ${date}`);
});

test("a cooldown holds for other clients and other processes", async (t) => {
  const { servers, all, client, settings } = await setUpAccounts(t);
  const { client: other } = startClient(t, settings);
  await other.accounts();
  servers.one.setQuota("one", 0);
  await chat(client, "hi");
  assert.equal(accountOf(await chat(other, "hi")), "id-two");
  const { account, list } = await inChild(
    t,
    "node",
    async ({ load, report, data }) => {
      const client = (await load()).createClient(data);
      const response = await client.fetch(`${client.baseUrl}/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "hi" }] }),
      });
      report({ account: response.headers.get("x-qwen-account"), list: await client.accounts() });
    },
    { data: settings },
  );
  assert.equal(account, "id-two");
  assert.deepEqual(list, await client.accounts());
  assert.deepEqual(
    all.map((server) => server.stats.chats),
    [1, 3, 0],
  );
});

test("an account comes back by itself when its cooldown is over", async (t) => {
  const { servers, store, client, events } = await setUpAccounts(t, { client: { quotaCooldownMs: 200 } });
  await chat(client, "hi");
  servers.one.setQuota("one", 0);
  assert.equal(accountOf(await chat(client, "hi")), "id-two");
  servers.one.setQuota("one", null);
  const { coolingUntil } = await client.activeAccount();
  await sleep(coolingUntil - Date.now() + 20);
  assert.equal((await client.activeAccount()).state, "ready");
  assert.equal(accountOf(await chat(client, "hi")), "id-one");
  assert.deepEqual(told(events), [
    { type: "exhausted", accountId: "id-one", label: "one", code: "ERR_QWEN_QUOTA_EXHAUSTED" },
    { type: "switched", accountId: "id-two", label: "two", fromAccountId: "id-one" },
    { type: "ready", accountId: "id-one", label: "one" },
    { type: "switched", accountId: "id-one", label: "one", fromAccountId: "id-two" },
  ]);
  const { coolingUntil: left, lastError, state } = await client.activeAccount();
  assert.deepEqual([left, lastError, state], [undefined, undefined, "ready"]);
  assert.ok(!(store.read().accounts[0].exhaustedUntil > 0));
});

test("OPENCODE_QWEN_QUOTA_COOLDOWN_MS is the cooldown, and the option wins over it", async (t) => {
  for (const [client, expected] of [
    [{}, 600_000],
    [{ quotaCooldownMs: 900_000 }, 900_000],
  ]) {
    const env = { OPENCODE_QWEN_QUOTA_COOLDOWN_MS: "600000" };
    const set = await setUpAccounts(t, { env, client });
    set.servers.one.setQuota("one", 0);
    const since = Date.now();
    await chat(set.client, "hi");
    assertInstant((await set.client.activeAccount()).coolingUntil, since, expected);
  }
});

test("round-robin gives each ready account its turn", async (t) => {
  for (const given of [
    { client: { rotation: "round-robin" } },
    { env: { OPENCODE_QWEN_ROTATION: "round-robin" } },
  ]) {
    const { servers, all, client, events, asked } = await setUpAccounts(t, given);
    const order = [];
    for (let turn = 0; turn < 6; turn += 1) order.push(accountOf(await chat(client, "hi")));
    assert.deepEqual(order, ["id-one", "id-two", "id-three", "id-one", "id-two", "id-three"]);
    assert.deepEqual(events, []);
    servers.two.setQuota("two", 0);
    const accounts = [];
    for (let turn = 0; turn < 8; turn += 1) accounts.push(accountOf(await chat(client, "hi")));
    const counts = countBy(accounts);
    assert.equal(counts["id-two"], undefined);
    assert.ok(counts["id-one"] >= 3 && counts["id-three"] >= 3, JSON.stringify(counts));
    assert.equal(asked().two, 3);
    assertNothingStrayed(all);
  }
});

test("hybrid stays with an account, and begins at another one in another process", async (t) => {
  const { settings, servers } = await setUpAccounts(t, { client: { rotation: "hybrid" } });
  const begun = new Set();
  for (let process = 0; process < 15 && begun.size < 2; process += 1) {
    const accounts = await inChild(
      t,
      "node",
      async ({ load, report, data }) => {
        const client = (await load()).createClient(data);
        const accounts = [];
        for (let turn = 0; turn < 3; turn += 1) {
          const response = await client.fetch(`${client.baseUrl}/models`);
          accounts.push(response.headers.get("x-qwen-account"));
        }
        report(accounts);
      },
      { data: settings },
    );
    assert.equal(new Set(accounts).size, 1, accounts.join());
    begun.add(accounts[0]);
  }
  assert.equal(begun.size, 2);
  assertNothingStrayed(Object.values(servers));
});

test("with all accounts out of quota each is asked once, and then a degraded payload is", async (t) => {
  const { servers, all, client, events, total } = await setUpAccounts(t);
  for (const server of all) server.script("chat", [QUOTA_BUT_DEGRADED]);
  const response = await chat(client, "", TALK);
  assert.deepEqual([response.status, response.headers.get("x-qwen-degraded")], [200, "1"]);
  assert.match(
    response.headers.get("x-qwen-degraded-left-out"),
    /^without the \d+ oldest messages, and with an answer of at/,
  );
  assert.equal(await answerOf(response), "The tool answered: it is blue");
  assert.equal(total(), 4);
  const full = bodies(all).filter(({ max_tokens }) => max_tokens > 1024);
  assert.equal(full.length, 3);
  for (const body of full) assert.deepEqual(body, full[0]);
  const degraded = bodies(all).find(({ max_tokens }) => max_tokens <= 1024);
  const { messages, max_tokens, ...rest } = degraded;
  const { messages: whole, max_tokens: _, ...fullRest } = full[0];
  assert.ok(max_tokens > 0);
  assert.deepEqual(rest, fullRest, "metadata and all else stay");
  assert.ok(messages.length < whole.length);
  assert.deepEqual(messages[0], whole[0]);
  assert.deepEqual(messages.slice(-3), whole.slice(-3));
  assert.equal(servers.one.stats.chats, 2, "it goes to the account that is free first");
  assert.equal(accountOf(response), "id-one");
  assert.deepEqual(
    events.map(({ type }) => type),
    ["exhausted", "exhausted", "exhausted", "degraded"],
  );
  assertNothingStrayed(all);
});

test("a degraded payload goes to the account that is free first, and streams if the caller does", async (t) => {
  const { servers, all, client } = await setUpAccounts(t);
  for (const [name, retryAfter] of Object.entries({ one: 9000, two: 4000, three: 7000 })) {
    servers[name].script("chat", [{ ...QUOTA_BUT_DEGRADED, retryAfter }]);
  }
  const fields = { stream: true, stream_options: { include_usage: true } };
  const response = await chat(client, "SAY 5", fields);
  assert.equal(response.headers.get("x-qwen-degraded"), "1");
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  assert.match(await response.text(), /word1 .*word5.*"usage":.*\[DONE\]/s);
  assert.deepEqual(
    all.map((server) => server.stats.chats),
    [1, 2, 1],
  );
  const degraded = servers.two.seen("chat")[1].body;
  assert.deepEqual([degraded.stream, degraded.max_tokens], [true, 1024]);
  assertNothingStrayed(all);
});

test("a caller's lower max_tokens stays as it is in a degraded payload", async (t) => {
  const { all, servers, client } = await setUpAccounts(t);
  for (const server of all) server.script("chat", [{ do: "quota" }]);
  const fields = { max_tokens: 500, max_completion_tokens: 700 };
  assert.equal((await chat(client, "hi", fields)).headers.get("x-qwen-degraded"), "1");
  const { max_tokens, max_completion_tokens } = servers.one.seen("chat")[1].body;
  assert.deepEqual({ max_tokens, max_completion_tokens }, fields);
});

test("when nothing is left the answer is a 429 that says until when", async (t) => {
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

test("while all accounts cool no full payload is sent, by anyone", async (t) => {
  const { servers, all, client, settings, store, total } = await setUpAccounts(t);
  for (const name of NAMES) servers[name].setQuota(name, 0);
  await chat(client, "hi");
  assert.equal(total(), 4);
  const { client: other } = startClient(t, settings);
  for (const each of [client, other, client]) {
    const response = await chat(each, "hi");
    assert.equal(response.status, 429);
    assert.ok(response.headers.get("retry-after") > 1700);
    assert.equal((await errorOf(response)).code, "insufficient_quota");
  }
  const status = await inChild(
    t,
    "node",
    async ({ load, report, data }) => {
      const client = (await load()).createClient(data);
      const body = JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "hi" }] });
      const init = { method: "POST", headers: { "content-type": "application/json" }, body };
      report((await client.fetch(`${client.baseUrl}/chat/completions`, init)).status);
    },
    { data: settings },
  );
  assert.equal(status, 429);
  assert.equal(total(), 4, "the degraded try is made once a minute");

  const { degradedAt, ...document } = store.read();
  assert.ok(Math.abs(degradedAt - Date.now()) < 60_000);
  store.write({ ...document, degradedAt: degradedAt - 61_000 });
  for (let turn = 0; turn < 3; turn += 1) assert.equal((await chat(client, "hi")).status, 429);
  assert.equal(total(), 5);
  assert.equal(bodies(all).filter(({ max_tokens }) => max_tokens <= 1024).length, 2);
  assert.equal(bodies(all).filter(({ max_tokens }) => max_tokens === undefined).length, 3);
  const models = await client.fetch(`${client.baseUrl}/models`);
  assert.equal(models.status, 429, "what is no chat is not degraded");
  assert.equal(all.flatMap((server) => server.seen("models")).length, 0);
});

test("many requests at once while all accounts cool make one degraded try", async (t) => {
  const { servers, client, store, total } = await setUpAccounts(t);
  for (const name of NAMES) servers[name].setQuota(name, 0);
  await chat(client, "hi");
  const document = store.read();
  store.write({ ...document, degradedAt: document.degradedAt - 61_000 });
  const responses = await Promise.all(Array.from({ length: 10 }, () => chat(client, "hi")));
  assert.deepEqual([...new Set(responses.map(({ status }) => status))], [429]);
  assert.equal(total(), 5);
});

test("degrade: false leaves the degraded try out", async (t) => {
  for (const given of [{ client: { degrade: false } }, { env: { OPENCODE_QWEN_DEGRADE: "0" } }]) {
    const { servers, client, total } = await setUpAccounts(t, given);
    for (const name of NAMES) servers[name].setQuota(name, 0);
    assert.equal((await chat(client, "hi")).status, 429);
    assert.equal((await chat(client, "hi")).status, 429);
    assert.equal(total(), 3);
  }
});

test("one account alone: a degraded try, then a 429 that does not speak of others", async (t) => {
  const { servers, client, total } = await setUpAccounts(t, { names: ["one"] });
  servers.one.setQuota("one", 0);
  const response = await chat(client, "hi");
  assert.deepEqual([response.status, total()], [429, 2]);
  const { message } = await errorOf(response);
  assert.match(message, /^This Qwen account has used up its quota/);
  assert.doesNotMatch(message, /All/);
});

test("a short rate limit is waited for, on the same account", async (t) => {
  for (const retryAfter of [0, 1, undefined]) {
    const { servers, client, events, asked } = await setUpAccounts(t);
    servers.one.script("chat", [{ do: "rate_limit", retryAfter }]);
    const response = await chat(client, "hi");
    assert.deepEqual([response.status, accountOf(response)], [200, "id-one"]);
    assert.deepEqual(asked(), { one: 2 });
    const [first, second] = servers.one.seen("chat");
    assert.equal(second.rawBody, first.rawBody);
    const wait = second.at - first.finishedAt;
    assert.ok(wait >= (retryAfter ?? 1) * 1000 - 50, `it was asked again after ${wait} ms`);
    assert.deepEqual(told(events), [{ type: "retry", accountId: "id-one", label: "one" }]);
    assert.deepEqual(await states(client), { one: "ready", two: "ready", three: "ready" });
  }
});

test("a short rate limit is waited for once, then another account is asked", async (t) => {
  const { servers, client, asked } = await setUpAccounts(t);
  servers.one.script("chat", [{ do: "rate_limit", retryAfter: 0, times: 2, message: "slow down" }]);
  const response = await chat(client, "hi");
  assert.deepEqual([response.status, accountOf(response)], [200, "id-two"]);
  assert.deepEqual(asked(), { one: 2, two: 1 });
});

test("a long rate limit moves on to another account, and the first one cools for so long", async (t) => {
  const { servers, all, client, events, asked } = await setUpAccounts(t);
  await chat(client, "hi");
  servers.one.script("chat", [{ do: "rate_limit", retryAfter: 60 }]);
  const since = Date.now();
  const response = await chat(client, "hi", LONG);
  assert.deepEqual([response.status, accountOf(response)], [200, "id-two"]);
  assertInstant((await client.activeAccount()).coolingUntil, since, 60_000);
  assert.deepEqual(servers.two.seen("chat")[0].body, servers.one.seen("chat")[1].body);
  await chat(client, "hi");
  assert.deepEqual(asked(), { one: 2, two: 2 });
  assert.deepEqual(told(events, "switched"), [
    { type: "switched", accountId: "id-two", label: "two", fromAccountId: "id-one" },
  ]);
  assertNothingStrayed(all);
});

test("the last account's long rate limit comes back untouched", async (t) => {
  const { servers, client, total } = await setUpAccounts(t, { client: { degrade: false } });
  servers.one.setQuota("one", 0);
  servers.two.setQuota("two", 0);
  const body = { error: { code: "Throttling.RateQuota", message: "slow down, please", extra: [1] } };
  servers.three.script("chat", [
    { status: 429, body, headers: { "retry-after": "30", "x-request-id": "r" } },
  ]);
  const response = await chat(client, "hi");
  assert.deepEqual([response.status, await response.json()], [429, body]);
  assert.deepEqual(
    ["retry-after", "x-request-id", "x-qwen-account", "x-qwen-error"].map((name) =>
      response.headers.get(name),
    ),
    ["30", "r", "id-three", null],
  );
  assert.equal(total(), 3);
  assert.deepEqual(await states(client), { one: "cooling", two: "cooling", three: "cooling" });
  const next = await chat(client, "hi");
  assert.equal(next.status, 429);
  assert.ok(next.headers.get("retry-after") <= 30, "the account with the rate limit is free first");
  assert.equal(total(), 3);
});

test("a login that has ended is passed over, and told once", async (t) => {
  const { servers, home, client, events, asked, tokens } = await setUpAccounts(t, {
    tokens: { one: EXPIRED },
  });
  const before = home.bytes();
  servers.one.revokeRefresh(tokens.one.refresh_token);
  for (let turn = 0; turn < 4; turn += 1) {
    const response = await chat(client, "hi");
    assert.deepEqual([response.status, accountOf(response)], [200, "id-two"]);
  }
  assert.deepEqual(asked(), { two: 4 });
  assert.equal(servers.one.stats.refreshes, 1);
  assert.deepEqual(told(events, "needs-login"), [
    { type: "needs-login", accountId: "id-one", label: "one", code: "ERR_QWEN_REFRESH_TOKEN_INVALID" },
  ]);
  const { state, lastError, active } = await client.activeAccount();
  assert.deepEqual([state, lastError.code, active], ["needs-login", "ERR_QWEN_REFRESH_TOKEN_INVALID", true]);
  assert.deepEqual(home.bytes(), before);
});

test("another process knows of a login that has ended, and does not ask again", async (t) => {
  const { servers, client, settings, tokens } = await setUpAccounts(t, { tokens: { one: EXPIRED } });
  servers.one.revokeRefresh(tokens.one.refresh_token);
  await chat(client, "hi");
  const result = await inChild(
    t,
    "node",
    async ({ load, report, data }) => {
      const events = [];
      const client = (await load()).createClient({ ...data, onEvent: ({ type }) => events.push(type) });
      const { headers } = await client.fetch(`${client.baseUrl}/models`);
      report({ account: headers.get("x-qwen-account"), events });
    },
    { data: settings },
  );
  assert.equal(result.account, "id-two");
  assert.ok(!result.events.includes("needs-login"), result.events.join());
  assert.equal(servers.one.stats.refreshes, 1);
});

test("an account whose token the API refuses is passed over within the call, and left alone for a while", async (t) => {
  const { servers, client, events, asked } = await setUpAccounts(t, { shared: true });
  servers.one.script("chat", [{ do: "token_rejected", account: "one", times: Infinity, anyone: true }]);
  for (let turn = 0; turn < 3; turn += 1) {
    const response = await chat(client, "hi", LONG);
    assert.deepEqual([response.status, accountOf(response)], [200, "id-two"]);
  }
  assert.deepEqual(asked(), { one: 2, two: 3 });
  for (const body of bodies([servers.one]))
    assert.deepEqual(body.messages, bodies([servers.one])[0].messages);
  assert.deepEqual(told(events, "needs-login"), [
    { type: "needs-login", accountId: "id-one", label: "one", code: "ERR_QWEN_FREE_TIER_DISCONTINUED" },
  ]);
  const { state, lastError } = await client.activeAccount();
  assert.deepEqual([state, lastError.code], ["needs-login", "ERR_QWEN_FREE_TIER_DISCONTINUED"]);
});

test("dead logins beside exhausted ones: the quota is what is told", async (t) => {
  const { servers, client, total, tokens } = await setUpAccounts(t, { tokens: { one: EXPIRED } });
  servers.one.revokeRefresh(tokens.one.refresh_token);
  servers.two.setQuota("two", 0);
  servers.three.setQuota("three", 0);
  const response = await chat(client, "hi");
  assert.equal(response.headers.get("x-qwen-error"), "ERR_QWEN_QUOTA_EXHAUSTED");
  assert.deepEqual([response.status, total()], [429, 3]);
});

test("only dead logins: the first one's own error", async (t) => {
  const { servers, client, tokens } = await setUpAccounts(t, {
    shared: true,
    tokens: { one: EXPIRED, two: EXPIRED, three: EXPIRED },
  });
  for (const { refresh_token } of Object.values(tokens)) servers.one.revokeRefresh(refresh_token);
  const error = await rejection(chat(client, "hi"), "ERR_QWEN_REFRESH_TOKEN_INVALID");
  assert.match(error.message, /[Ll]og in/);
  await rejection(chat(client, "hi"), "ERR_QWEN_REFRESH_TOKEN_INVALID", { accountId: "id-one" });
  assert.equal(servers.one.stats.refreshes, 3);
  assert.equal(servers.one.stats.chats, 0);
});

test("a refresh without a verdict is no reason to use another account", async (t) => {
  const { servers, client, total } = await setUpAccounts(t, { tokens: { one: EXPIRED } });
  servers.one.script("token", [{ do: "html", times: Infinity }]);
  const error = await rejection(chat(client, "hi"), "ERR_QWEN_REFRESH_UNAVAILABLE", { retryable: true });
  assert.equal(error.accountId, "id-one");
  assert.equal(total(), 0);
});

test("each account refreshes its own token, and keeps it in its own place", async (t) => {
  const { servers, home, store, client, tokens } = await setUpAccounts(t, {
    shared: true,
    tokens: { one: EXPIRED, two: EXPIRED, three: EXPIRED },
  });
  const given = await Promise.all(NAMES.map((name) => client.getAccessToken({ accountId: `id-${name}` })));
  const records = store.read().accounts;
  assert.deepEqual(
    given.map(({ accessToken }) => accessToken),
    records.map(({ token }) => token.access_token),
  );
  assert.equal(home.read().access_token, records[0].token.access_token);
  assert.equal(home.read().refresh_token, records[0].token.refresh_token);
  const { redemptions, doubleRedemptions } = servers.one.stats;
  assert.deepEqual({ redemptions, doubleRedemptions }, { redemptions: 3, doubleRedemptions: 0 });
  for (const [index, name] of NAMES.entries()) {
    assert.notEqual(records[index].token.refresh_token, tokens[name].refresh_token);
  }
  assert.equal((await client.getAccessToken()).accountId, "id-one");
});

test("whatever the servers do, a call has its bound, and ends with a response or an error of ours", async (t) => {
  // A generator of its own, so that a failure can be repeated.
  let seed = 7;
  const random = (count) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((seed / 2 ** 32) * count);
  };
  const steps = [
    { do: "quota" },
    { do: "quota", as403: true },
    { do: "quota", retryAfter: 0 },
    { do: "rate_limit", retryAfter: 0 },
    { do: "rate_limit", retryAfter: 20 },
    { do: "token_rejected" },
    { do: "redirect", location: "/v1/chat/completions" },
    { do: "redirect", location: "https://elsewhere.invalid/" },
    { do: "server_error" },
    { do: "reset" },
    { do: "close" },
    { do: "garbage" },
    { do: "html" },
    { do: "ok" },
  ];
  for (let round = 0; round < 40; round += 1) {
    const { servers, client, total, asked, home } = await setUpAccounts(t, { shared: true });
    const chosen = Array.from({ length: 12 }, () => steps[random(steps.length)]);
    servers.one.script("chat", [...chosen, { do: "quota", times: Infinity }]);
    const outcome = await chat(client, "hi", { stream: round % 2 === 0 }).then(
      async (response) => `${response.status} ${(await response.text()).slice(0, 80)}`,
      (error) => {
        assert.match(error.code, /^ERR_QWEN_(?:NETWORK|TIMEOUT)$/, error.stack);
        return error.code;
      },
    );
    const what = `${chosen.map((step) => step.do)} gave ${outcome} after ${JSON.stringify(asked())}`;
    assert.ok(total() <= 2 * NAMES.length + 2, what);
    assert.deepEqual(servers.one.failures, []);
    assert.ok(home.files().includes("oauth_creds.json"));
    client.close();
    await servers.one.close();
  }
});

test("setActiveAccount writes that account's token to the credentials file, once the other is safe", async (t) => {
  const { home, store, client, tokens, all } = await setUpAccounts(t);
  // The CLI has refreshed its token: no other place has it.
  const rotated = all[0].issueToken({ account: "one", refresh_token: tokens.one.refresh_token });
  rotated.expiry_date = tokens.one.expiry_date + 1000;
  home.write({ ...rotated, note: "the CLI's own" });
  const chosen = await client.setActiveAccount("id-two");
  assert.deepEqual([chosen.id, chosen.label, chosen.active], ["id-two", "two", true]);
  assert.equal(home.read().access_token, tokens.two.access_token);
  assert.equal(home.read().refresh_token, tokens.two.refresh_token);
  assert.equal(home.read().resource_url, tokens.two.resource_url);
  assert.equal(store.read().accounts[0].token.access_token, rotated.access_token);
  assert.equal(store.read().activeAccountId, "id-two");
  assert.equal(accountOf(await chat(client, "hi")), "id-two");
  assert.equal((await client.activeAccount()).id, "id-two");
  await client.setActiveAccount("id-two");
  assert.equal((await client.accounts()).length, 3);
  await client.setActiveAccount("id-one");
  assert.equal(home.read().access_token, rotated.access_token);
  assertNothingStrayed(all);
});

test("setActiveAccount hands the qwen CLI a token that works", async (t) => {
  const { home, client, tokens, servers } = await setUpAccounts(t, {
    shared: true,
    tokens: { two: EXPIRED },
  });
  await client.setActiveAccount("id-two");
  assert.notEqual(home.read().access_token, tokens.two.access_token);
  assert.ok(home.read().expiry_date > Date.now());
  assert.equal(servers.one.stats.redemptions, 1);
});

test("an id that no account has changes nothing", async (t) => {
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

test("an account that was removed stays removed, whatever comes back", async (t) => {
  const { home, store, client, events, settings, tokens, servers } = await setUpAccounts(t);
  const old = home.bytes();
  await client.removeAccount("id-one");
  assert.ok(!existsSync(home.path), "the qwen CLI is logged out with it");
  const left = async () => {
    const { client: another } = startClient(t, settings);
    return (await another.accounts()).map(({ label }) => label);
  };
  assert.deepEqual(await left(), ["two", "three"]);
  assert.equal((await client.activeAccount()).id, "id-two");
  home.write(old);
  assert.deepEqual(await left(), ["two", "three"], "old credentials bring nothing back");
  assert.equal(accountOf(await chat(client, "hi")), "id-two");
  assert.ok(!store.bytes().includes(tokens.one.access_token));
  assert.ok(!store.bytes().includes(tokens.one.refresh_token));
  assert.deepEqual(home.bytes(), old, "what is not ours is left alone");
  assert.equal(servers.one.stats.chats, 0);

  const { length } = events;
  home.write(servers.one.issueToken({ account: "one" }));
  for (let turn = 0; turn < 3; turn += 1) await client.accounts();
  assert.equal((await client.accounts()).length, 3, "another login is another account");
  assert.equal((await client.activeAccount()).id, "id-two");
  assert.deepEqual(
    events.slice(length).map(({ type }) => type),
    ["store-repaired"],
  );
});

test("removing an account that the qwen CLI does not use leaves its file alone", async (t) => {
  const { home, client } = await setUpAccounts(t);
  const before = home.bytes();
  await client.removeAccount("id-two");
  assert.deepEqual(home.bytes(), before);
  assert.deepEqual(await states(client), { one: "ready", three: "ready" });
  assert.equal((await client.activeAccount()).id, "id-one");
});

test("with the last account everything is gone, and a restart brings nothing back", async (t) => {
  const { home, store, client, settings, tokens } = await setUpAccounts(t);
  const old = home.bytes();
  for (const { id } of await client.accounts()) await client.removeAccount(id);
  assert.deepEqual([await client.accounts(), await client.activeAccount()], [[], null]);
  home.write(old);
  const { client: another } = startClient(t, settings);
  assert.deepEqual(await another.accounts(), []);
  await rejection(chat(another, "hi"), "ERR_QWEN_NOT_LOGGED_IN");
  for (const { access_token } of Object.values(tokens)) assert.ok(!store.bytes().includes(access_token));
});

test("a single login without a store can be removed too, and stays away", async (t) => {
  const server = await startServer(t);
  const home = temporaryHome(t);
  const old = home.write(server.issueToken());
  const settings = { env: home.env, oauth: { baseUrl: server.url } };
  const { client } = startClient(t, settings);
  const { id } = await client.activeAccount();
  await client.removeAccount(id);
  assert.ok(!existsSync(home.path));
  home.write(old);
  const { client: another } = startClient(t, settings);
  assert.deepEqual(await another.accounts(), []);
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

test("names: given, numbered, shared, of any script, and none that is no name", async (t) => {
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
