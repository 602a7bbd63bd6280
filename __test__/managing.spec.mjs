import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setUpAccounts, told } from "./support/accounts.mjs";
import { runProgram } from "./support/command-line.mjs";
import { chat, rejection } from "./support/harness.mjs";

const { describe: describeToast } = createRequire(import.meta.url)("../lib/accounts-toast.js");

const account = (accounts, id) => accounts.find((one) => one.id === id);

describe("managing accounts", { concurrency: 4, timeout: 600_000 }, () => {
  test("a disabled account is kept but not used", async (t) => {
    const { client, events, asked, home, store } = await setUpAccounts(t);
    const creds = home.read();
    const disabled = await client.updateAccount("id-one", { enabled: false });
    assert.deepEqual([disabled.enabled, disabled.active], [false, false]);
    assert.deepEqual(told(events, "switched"), [
      { type: "switched", accountId: "id-two", label: "two", fromAccountId: "id-one" },
    ]);
    for (let count = 0; count < 3; count += 1) assert.equal((await chat(client, "hi")).status, 200);
    assert.deepEqual(asked(), { two: 3 });
    assert.deepEqual(home.read(), creds, "the qwen CLI keeps its login");
    assert.equal(account(store.read().accounts, "id-one").enabled, false);
    await client.updateAccount("id-one", { enabled: true });
    assert.equal((await client.setActiveAccount("id-one")).active, true);
    await chat(client, "hi");
    assert.deepEqual(asked(), { one: 1, two: 3 });
  });

  test("with every account disabled, requests say how to enable one", async (t) => {
    const { client, total } = await setUpAccounts(t, { names: ["one", "two"] });
    for (const id of ["id-one", "id-two"]) await client.updateAccount(id, { enabled: false });
    await client.updateAccount("id-one", { label: "-o'ne $(id)" });
    for (const send of [() => chat(client, "hi"), () => client.getAccessToken()]) {
      const error = await rejection(send(), "ERR_QWEN_NOT_LOGGED_IN");
      assert.match(error.message, /disabled.*`npx opencode-qwen-cli-auth enable -- '-o'\\''ne \$\(id\)'`/);
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
    assert.equal((await chat(client, "hi")).status, 200);
  });

  test("a change without content writes nothing, and a new label is kept", async (t) => {
    const { client, store } = await setUpAccounts(t);
    const before = store.bytes();
    assert.equal((await client.updateAccount("id-one", {})).label, "one");
    assert.deepEqual(store.bytes(), before);
    assert.equal((await client.updateAccount("id-one", { label: "Work" })).label, "Work");
    assert.equal(account(store.read().accounts, "id-one").label, "Work");
    // It would show nothing.
    for (const label of ["", " ", "\u200b\u2060"]) {
      await rejection(client.updateAccount("id-one", { label }), "ERR_QWEN_INVALID_ARGUMENT");
    }
  });

  test("the final error names the time by this machine's clock", async (t) => {
    const { TZ } = process.env;
    t.after(() => (TZ === undefined ? delete process.env.TZ : (process.env.TZ = TZ)));
    process.env.TZ = "Asia/Kolkata";
    const { servers, client } = await setUpAccounts(t, { names: ["one"] });
    servers.one.setQuota("one", 0, { retryAfter: 4000 });
    const { message } = (await (await chat(client, "hi")).json()).error;
    const free = new Date((await client.activeAccount()).coolingUntil);
    const [hours, minutes] = [free.getHours(), free.getMinutes()].map((part) =>
      String(part).padStart(2, "0"),
    );
    assert.ok(message.includes(`${hours}:${minutes}`), `"${message}" does not say ${hours}:${minutes}`);
  });

  test("the commands report their result", async (t) => {
    const { settings, home, servers } = await setUpAccounts(t, { names: ["one", "two"] });
    const env = { ...settings.env, PATH: process.env.PATH, OPENCODE_QWEN_OAUTH_BASE_URL: servers.one.url };
    const run = (...args) => runProgram({ env, cwd: home.home }, args);
    const disabled = await run("disable", "one");
    assert.equal(disabled.code, 0, disabled.stderr);
    assert.match(
      disabled.stdout,
      /"one" \(id-one\) is disabled and gets no requests.*\n"two" \(id-two\) is the active/,
    );
    assert.match((await run("disable", "two")).stdout, /No account is enabled/);
    const renamed = await run("rename", "one", "Work", "--json");
    assert.deepEqual([renamed.code, JSON.parse(renamed.stdout).label], [0, "Work"]);
    assert.match((await run("enable", "Work")).stdout, /"Work" \(id-one\) is enabled.*\n"Work".*active/);
    for (const [args, code] of [
      [["rename", "Work"], 2],
      [["rename", "Work", "a", "b"], 2],
      [["rename", "Work", " "], 2],
      [["rename", "Work", "two"], 1],
      [["rename", "two", "id-one"], 1],
      [["rename", "two", "a\tb"], 1],
      [["disable"], 2],
      [["enable", "nobody"], 1],
    ]) {
      const { code: given, stderr } = await run(...args);
      assert.equal(given, code, args.join(" "));
      assert.ok(!stderr.includes("changes."), stderr);
    }
  });

  test("plan, window, state and an estimate of a key are shown", async (t) => {
    const { settings, home, servers, store } = await setUpAccounts(t, { names: ["one"] });
    const now = Date.now();
    const key = (id, fields) => ({
      id,
      key: `sk-sp-${id}`,
      label: id,
      createdAt: 1,
      updatedAt: 1,
      ...fields,
    });
    store.write({
      ...store.read(),
      apiKeys: [
        key("lite", {
          plan: "coding-plan",
          region: "cn",
          tier: "lite",
          baseUrl: "https://coding.dashscope.aliyuncs.com/v1",
          exhaustedUntil: now + 3_600_000,
          quotaWindow: "5-hour",
        }),
        key("off", { plan: "token-plan", region: "intl", tier: "pro", enabled: false }),
      ],
    });
    const counts = { requests: 750, withoutUsage: 0, inputTokens: 1, cachedTokens: 0, outputTokens: 1 };
    const rows = { hours: { [Math.floor(now / 3_600_000)]: counts }, days: {} };
    const usage = { version: 1, accounts: { lite: rows, off: rows } };
    writeFileSync(join(home.directory, "opencode_qwen_usage.json"), JSON.stringify(usage));
    const env = { ...settings.env, PATH: process.env.PATH, OPENCODE_QWEN_OAUTH_BASE_URL: servers.one.url };
    const run = async (...args) => (await runProgram({ env, cwd: home.home }, args)).stdout;
    const estimate = /^lite: about 62 % of 5 h used, 8 % of the week, 0 % of 30 days \(estimate from/m;
    for (const command of ["accounts", "status"]) {
      const text = await run(command);
      assert.match(text, / lite +Coding Plan, cn +cooling \d/);
      assert.match(text, / off +Token Plan, intl +disabled/);
      assert.match(text, estimate);
      assert.equal(text.match(/estimate/g).length, 1, "nothing is estimated for a Token Plan");
    }
    assert.match(await run("status"), /3: 1 ready, 1 cooling, 0 in need of a login, 1 disabled\n/);
    const list = JSON.parse(await run("accounts", "--json"));
    assert.equal(account(list, "lite").quotaWindow, "5-hour");
    assert.deepEqual(
      account(list, "lite").usage.estimates.map(({ window, percent }) => [window, percent]),
      [
        ["5-hour", 62],
        ["weekly", 8],
        ["monthly", 0],
      ],
    );
    const toast = describeToast(list, now);
    assert.match(toast, /^lite \(Coding Plan, cn\): 5-hour quota used up, free again in (?:1 h|59 min)$/m);
    assert.match(toast, /^about 62 % of 5 h used \(estimate from this machine's use\)$/m);
    assert.match(toast, /^off \(Token Plan, intl\): disabled$/m);
  });
});
