// Adding a key on the command line: hidden input, from a prompt or standard input only.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import { storeOf } from "./support/accounts.mjs";
import { runProgram, startProgram } from "./support/command-line.mjs";
import { startServer, temporaryHome, startClient } from "./support/harness.mjs";
import { hasTerminal, screenAfter } from "./support/terminal.mjs";

const use = createRequire(import.meta.url)("../lib/cli/commands/use.js");

async function setUp(t) {
  const server = await startServer(t);
  const home = temporaryHome(t);
  const env = {
    ...home.env,
    PATH: process.env.PATH,
    TERM: "xterm",
    OPENCODE_QWEN_OAUTH_BASE_URL: server.url,
  };
  const context = { env, secrets: server.issued };
  const start = (...args) => {
    const program = startProgram(context, ["add-key", ...args], { terminal: {} });
    t.after(() => program.child.kill("SIGKILL"));
    return program;
  };
  const pipe = (input, ...args) => runProgram({ ...context, input }, ["add-key", ...args]);
  return { server, home, env, store: storeOf(home), start, pipe };
}

test("a key from standard input is checked, stored and shown as an account", async (t) => {
  const { server, store, pipe } = await setUp(t);
  const key = server.addKey({ plan: "coding-plan" });
  const place = ["--base-url", server.apiBaseUrl];
  const first = await pipe(`${key}\n`, ...place, ..."--plan coding-plan --tier lite --label Work".split(" "));
  assert.deepEqual([first.code, first.stderr], [0, "Note: The key was read without the spaces around it.\n"]);
  assert.match(
    first.stdout,
    /^Added "Work" \(acct_\w+\); its requests go to \S+\/v1\.\nIt is the active account now\.\n$/,
  );
  assert.deepEqual(
    store.read().apiKeys.map(({ key: kept, tier }) => [kept, tier]),
    [[key, "lite"]],
  );
  assert.equal(server.seen("chat").length, 1);

  const other = server.addKey({ plan: "token-plan" });
  const { stdout } = await pipe(other, ...place, ..."--plan token-plan --no-check --json".split(" "));
  const account = JSON.parse(stdout);
  assert.deepEqual([account.kind, account.active, account.label], ["api-key", false, "Token Plan key"]);
  assert.equal(account.billedByUse, undefined);
  assert.equal(server.seen("chat").length, 1);
});

test("an invalid key or choice fails and stores nothing", async (t) => {
  const { server, home, pipe } = await setUp(t);
  for (const [input, args, message] of [
    ["", [], /^No key was given\. Paste it at the prompt, or pass it by standard input\.\n$/],
    [" \n", [], /^No key was given\./],
    ["two words", [], /^key contains a space/],
    ["sk-sp-1", ["--plan", "free"], /^plan must be one of coding-plan, token-plan, dashscope\.\n$/],
    ["sk-sp-1", ["--region", "mars"], /^region must be one of cn, hk, intl, us\.\n$/],
    ["sk-sp-1", ["--tier", "huge"], /^tier must be one of lite, standard, pro\.\n$/],
    [
      "ghp_0123456789",
      [],
      /^key is a secret of GitHub \(ghp_…\), not a key of Alibaba Cloud; nothing was sent\./,
    ],
    ["sk-sp-****cdef", [], /^key is the masked form that the console shows/],
    ["sk-sp-1", ["--base-url", "https://u:p@host.example"], /^baseUrl is not usable: it holds a user name/],
    ["k".repeat(70_000), [], /too long to be a key/],
    ["sk-sp-wrong", ["--base-url", server.apiBaseUrl], /^The key was refused/],
  ]) {
    const { code, stdout, stderr } = await pipe(input, ...args);
    assert.deepEqual([code, stdout], [1, ""], stderr);
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, /sk-sp-(?:1|wrong)|u:p@/);
  }
  assert.equal(existsSync(home.directory), false);
});

test("no command uses or repeats a key in its arguments", async (t) => {
  const { server, home, env } = await setUp(t);
  const hex = "0123456789abcdef0123456789abcdef";
  for (const key of [`sk-sp-${hex}`, `github_pat_${hex}`, `xoxb-${hex}`]) {
    const commands = [
      [key],
      ["accounts", key],
      ["use", key],
      ["remove", key],
      ["login", "--label", key],
      ["import", key],
      ["add-key", key],
      ["add-key", "--key", key],
      ["add-key", `--key=${key}`],
      ["add-key", "--plan", key],
    ];
    const context = { env, secrets: [hex.slice(0, 8)] };
    for (const { code, stdout, stderr } of await Promise.all(
      commands.map((args) => runProgram(context, args)),
    )) {
      assert.deepEqual([code, stdout], [2, ""], stderr);
      assert.match(stderr, /not taken from the arguments/);
    }
  }
  assert.equal(existsSync(home.directory), false);
  assert.equal(server.requests.length, 0);
});

test("a prompt does not show the key", { skip: !hasTerminal && "there is no util-linux" }, async (t) => {
  const { server, store, start } = await setUp(t);
  const key = server.addKey({ plan: "coding-plan" });
  const { printed, press, ended } = start("--plan", "coding-plan", "--base-url", server.apiBaseUrl);
  await printed(/it is not shown/);
  press(`${key.slice(0, -1)}x\x7f${key.at(-1)}`);
  press("\r");
  const { code, stdout } = await ended;
  assert.equal(code, 0, stdout);
  assert.ok(!stdout.includes(key.slice(0, 12)), "the key was shown");
  const lines = screenAfter(stdout);
  assert.equal(lines[0], "The key (it is not shown):");
  assert.match(lines[1], /^Added "Coding Plan key"/);
  assert.equal(store.read().apiKeys[0].key, key);
});

test("Ctrl-C at the prompt ends it", { skip: !hasTerminal && "there is no util-linux" }, async (t) => {
  const { home, start } = await setUp(t);
  const { printed, press, output, ended } = start("--plan", "token-plan");
  await printed(/it is not shown/);
  assert.match(output.stdout, /Token Plan, China: https:\/\/bailian\.console\.aliyun\.com\/\S*tab=plan/);
  assert.match(
    output.stdout,
    /Token Plan, international: https:\/\/modelstudio\.console\.alibabacloud\.com\//,
  );
  assert.doesNotMatch(output.stdout, /DashScope/);
  press("\x03");
  const { code, stdout } = await ended;
  assert.equal(code, 130, stdout);
  assert.match(stdout, /Cancelled\./);
  assert.equal(existsSync(home.directory), false);
});

test("a key that is billed by use says so in JSON and in an event, and has no tier", async (t) => {
  const { server, home, pipe } = await setUp(t);
  const key = server.addKey({ plan: "dashscope" });
  const args = ["--plan", "dashscope", "--base-url", server.apiBaseUrl, "--json"];
  const { code, stderr } = await pipe(key, ...args, "--tier", "lite");
  assert.equal(code, 1);
  assert.match(stderr, /^tier does not fit the key: DashScope has no tiers\./);
  assert.equal(server.seen("chat").length, 0);
  const { client, events } = startClient(t, { env: home.env });
  for (let times = 0; times < 2; times += 1)
    await client.addApiKey({ key, plan: "dashscope", baseUrl: server.apiBaseUrl, check: false });
  const told = events.filter(({ type }) => type === "switched").map(({ message }) => message);
  assert.deepEqual(told, ['The Qwen account "DashScope key" is now the active one (billed by use).']);
  const { active, billedByUse } = JSON.parse((await pipe(key, ...args)).stdout);
  assert.deepEqual([active, billedByUse], [true, true]);
});

test("an id in a file adds no control characters and no line to what a command prints", async (t) => {
  const { server, env, store, pipe } = await setUp(t);
  const add = async (...args) => {
    const key = server.addKey();
    const { code } = await pipe(key, "--base-url", server.apiBaseUrl, "--no-check", ...args);
    assert.equal(code, 0);
    return key;
  };
  await add("--plan", "coding-plan", "--label", "one");
  const metered = await add("--label", "two");
  const contents = store.read();
  const id = "\u001b[2Jx\nroot\u202e";
  contents.apiKeys[1].id = id;
  store.write(contents);
  const again = await pipe(metered, "--base-url", server.apiBaseUrl, "--no-check");
  const taken = await runProgram({ env }, ["rename", "one", "two"]);
  const disabled = await runProgram({ env }, ["disable", "one"]);
  const account = { id, label: "two", kind: "oauth", state: "needs-login" };
  const client = { accounts: async () => [account], setActiveAccount: async () => account };
  const { lines } = await use.run({ client, operand: "two" });
  const printed = [
    ...again.stdout.split("\n"),
    ...disabled.stdout.split("\n"),
    taken.stderr.trimEnd(),
    ...lines,
  ];
  const count = (text) => printed.filter((line) => line.includes(text)).length;
  const quoted = String.raw`$'\033[2Jx\nroot\342\200\256'`;
  assert.deepEqual([count("\ufffd[2Jx root\ufffd"), count(quoted)], [3, 3], printed.join("\n"));
  for (const line of printed) assert.doesNotMatch(line, /[\p{Cc}\u202e]/u);
});
