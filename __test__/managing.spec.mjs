import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setUpAccounts, told } from "./support/accounts.mjs";
import { runProgram } from "./support/command-line.mjs";
import { rejection } from "./support/harness.mjs";

const chat = (client) =>
  client.fetch(`${client.baseUrl}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "hi" }] }),
  });

const account = (accounts, id) => accounts.find((one) => one.id === id);

describe("managing accounts", { concurrency: 4, timeout: 120_000 }, () => {
  test("a disabled account is kept, and not asked", async (t) => {
    const { client, events, asked, home, store } = await setUpAccounts(t);
    const creds = home.read();
    const disabled = await client.updateAccount("id-one", { enabled: false });
    assert.deepEqual([disabled.enabled, disabled.active], [false, false]);
    assert.deepEqual(told(events, "switched"), [
      { type: "switched", accountId: "id-two", label: "two", fromAccountId: "id-one" },
    ]);
    for (let count = 0; count < 3; count += 1) assert.equal((await chat(client)).status, 200);
    assert.deepEqual(asked(), { two: 3 });
    assert.deepEqual(home.read(), creds, "the qwen CLI keeps its login");
    assert.equal(account(store.read().accounts, "id-one").enabled, false);
    await client.updateAccount("id-one", { enabled: true });
    assert.equal((await client.setActiveAccount("id-one")).active, true);
    await chat(client);
    assert.deepEqual(asked(), { one: 1, two: 3 });
  });

  test("with every account disabled, requests say how to go on", async (t) => {
    const { client, total } = await setUpAccounts(t, { names: ["one", "two"] });
    for (const id of ["id-one", "id-two"]) await client.updateAccount(id, { enabled: false });
    for (const send of [() => chat(client), () => client.getAccessToken()]) {
      const error = await rejection(send(), "ERR_QWEN_NOT_LOGGED_IN");
      assert.match(error.message, /disabled.*enable "one"/);
    }
    for (const use of [
      () => client.getAccessToken({ accountId: "id-two" }),
      () => client.setActiveAccount("id-two"),
    ]) {
      const error = await rejection(use(), "ERR_QWEN_INVALID_ARGUMENT", { accountId: "id-two" });
      assert.match(error.message, /"two", which is disabled\. Enable it first/);
    }
    assert.equal(total(), 0);
    await client.updateAccount("id-two", { enabled: true });
    assert.equal((await client.activeAccount()).id, "id-two");
    assert.equal((await chat(client)).status, 200);
  });

  test("what can't be changed is refused, and nothing is written", async (t) => {
    const { client, store } = await setUpAccounts(t);
    const before = store.bytes();
    for (const [id, changes] of [
      ["nobody", { enabled: false }],
      ["id-one", { label: "" }],
      ["id-one", { label: "a\u001b[2J" }],
      ["id-one", { label: "x".repeat(101) }],
      ["id-one", { enabled: "no" }],
      ["id-one", undefined],
      ["", {}],
    ]) {
      await rejection(client.updateAccount(id, changes), "ERR_QWEN_INVALID_ARGUMENT");
    }
    assert.equal((await client.updateAccount("id-one", {})).label, "one");
    assert.deepEqual(store.bytes(), before);
    assert.equal((await client.updateAccount("id-one", { label: "Work" })).label, "Work");
    assert.equal(account(store.read().accounts, "id-one").label, "Work");
  });

  test("the commands say what comes of it", async (t) => {
    const { settings, home, servers } = await setUpAccounts(t, { names: ["one", "two"] });
    const env = { ...settings.env, PATH: process.env.PATH, OPENCODE_QWEN_OAUTH_BASE_URL: servers.one.url };
    const run = (...args) => runProgram({ env, cwd: home.home }, args);
    const disabled = await run("disable", "one");
    assert.equal(disabled.code, 0, disabled.stderr);
    assert.match(
      disabled.stdout,
      /"one" \(id-one\) is disabled: no request.*\n"two" \(id-two\) is the active/,
    );
    assert.match((await run("disable", "two")).stdout, /No account is enabled/);
    const renamed = await run("rename", "one", "Work", "--json");
    assert.deepEqual([renamed.code, JSON.parse(renamed.stdout).label], [0, "Work"]);
    assert.match((await run("enable", "Work")).stdout, /"Work" \(id-one\) is enabled.*\n"Work".*active/);
    for (const [args, code] of [
      [["rename", "Work"], 2],
      [["rename", "Work", "a", "b"], 2],
      [["rename", "Work", " "], 2],
      [["disable"], 2],
      [["enable", "nobody"], 1],
    ]) {
      assert.equal((await run(...args)).code, code, args.join(" "));
    }
  });
});
