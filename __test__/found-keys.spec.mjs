// Keys in other tools' files: found, listed, and imported after the user agrees.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { storeOf } from "./support/accounts.mjs";
import { withoutOpenssl } from "./support/certificates.mjs";
import { runProgram } from "./support/command-line.mjs";
import { chat, rejection, startClient, temporaryHome, until } from "./support/harness.mjs";
import { startPlaces } from "./support/places.mjs";
import { hasTerminal, inTerminal } from "./support/terminal.mjs";

const PROGRAM = fileURLToPath(new URL("../bin/opencode-qwen-cli-auth.js", import.meta.url));
const SETTINGS = ".qwen/settings.json";
const AUTH = ".local/share/opencode/auth.json";
const CODING_PLAN = "https://coding-intl.dashscope.aliyuncs.com/v1";

const writer = (home) => (name, contents) => {
  const path = join(home.home, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, typeof contents === "string" ? contents : JSON.stringify(contents));
  return path;
};

/** A Coding Plan key in the qwen CLI's settings, and a Token Plan key in OpenCode's file. */
async function setUp(t) {
  const { server, home, env: places } = await startPlaces(t);
  const env = { ...places, PATH: process.env.PATH, TERM: "xterm" };
  const write = writer(home);
  const keys = [
    server.addKey({ plan: "coding-plan", region: "intl" }),
    server.addKey({ plan: "token-plan", region: "cn" }),
  ];
  const paths = [
    write(SETTINGS, {
      env: { BAILIAN_CODING_PLAN_API_KEY: keys[0] },
      modelProviders: {
        openai: [{ id: "qwen3.7-plus", baseUrl: CODING_PLAN, envKey: "BAILIAN_CODING_PLAN_API_KEY" }],
      },
    }),
    write(AUTH, { "alibaba-token-plan-cn": { type: "api", key: keys[1] } }),
  ];
  write("work/nothing", "");
  const context = { env, cwd: join(home.home, "work"), secrets: keys };
  const run = (...args) => runProgram(context, args);
  return { server, home, env, keys, paths, write, run, context, store: storeOf(home) };
}

const ends = (keys) => keys.map((key) => key.slice(-4));

describe("keys that other tools keep", { concurrency: 2, timeout: 600_000, skip: withoutOpenssl }, () => {
  test("keys are found without being copied, and imported with plan and region", async (t) => {
    const { server, home, env, keys, paths } = await setUp(t);
    const { client } = startClient(t, { env });
    const found = await client.findCredentials();
    assert.deepEqual(
      found.map(({ source, plan, region, lastFour, known }) => [source, plan, region, lastFour, known]),
      [
        [paths[0], "coding-plan", "intl", keys[0].slice(-4), false],
        [paths[1], "token-plan", "cn", keys[1].slice(-4), false],
      ],
    );
    assert.ok(!keys.some((key) => JSON.stringify(found).includes(key)));
    assert.equal(server.requests.length, 0);
    assert.deepEqual(home.files(), ["settings.json"]);

    const accounts = await client.importAccounts();
    assert.deepEqual(
      accounts.map(({ plan, region, state }) => [plan, region, state]),
      [
        ["coding-plan", "intl", "ready"],
        ["token-plan", "cn", "ready"],
      ],
    );
    assert.equal(server.seen("chat").length, 2, "one check at the place that each entry names");
    assert.deepEqual(
      (await client.findCredentials()).map(({ known }) => known),
      [true, true],
    );
    assert.deepEqual(await client.importAccounts(), []);
  });

  test("a request without an account names the found keys", async (t) => {
    const { env, paths } = await setUp(t);
    const { client } = startClient(t, { env });
    for (const ask of [() => chat(client, "hi"), () => client.getAccessToken()]) {
      const { message } = await rejection(ask(), "ERR_QWEN_NOT_LOGGED_IN");
      assert.ok(message.includes(`A Coding Plan key is in ${paths[0]}: run \`npx`), message);
    }
  });

  test("without a terminal and a flag keys are listed, and nothing is copied", async (t) => {
    const { keys, paths, run, store } = await setUp(t);
    const list = [
      "Keys that other tools keep:",
      `  1  Coding Plan, intl  …${ends(keys)[0]}  ${paths[0]}`,
      `  2  Token Plan, cn     …${ends(keys)[1]}  ${paths[1]}`,
    ];
    for (const [args, code] of [
      [[], 2],
      [["--dry-run"], 0],
    ]) {
      const listed = await run("import", ...args);
      assert.equal(listed.code, code, listed.stderr);
      assert.deepEqual(listed.stdout.split("\n").slice(0, 3), list);
    }
    const { stdout } = await run("import", "--dry-run", "--json");
    assert.deepEqual(
      JSON.parse(stdout).map(({ lastFour }) => lastFour),
      ends(keys),
    );
    assert.throws(() => store.bytes(), { code: "ENOENT" });
    const file = await run("import", paths[1], "--dry-run");
    assert.deepEqual(
      [file.code, file.stdout],
      [0, `Accounts and keys in ${paths[1]}:\n  1  Token Plan, cn  …${ends(keys)[1]}  ${paths[1]}\n`],
    );
    assert.throws(() => store.bytes(), { code: "ENOENT" });
  });

  test("a refused key does not stop the others", async (t) => {
    const { keys, write, run, store } = await setUp(t);
    write("work/.env", "ALIBABA_TOKEN_PLAN_API_KEY=sk-sp-ffffffffffffffffffffffffffffffff");
    const { code, stdout } = await run("import", "--yes");
    assert.equal(code, 1, stdout);
    assert.equal(stdout.match(/^Imported "/gm).length, 2);
    assert.match(stdout, /^Not imported, from \S+\/work\/\.env \(…ffff\): /m);
    assert.match(stdout, /is the active account\.\n$/);
    assert.deepEqual(
      store.read().apiKeys.map(({ key }) => key),
      keys,
    );
  });

  test("a project's file that names its own server is never imported with the others", async (t) => {
    const { server, write, context, store } = await setUp(t);
    const key = server.addKey({ plan: "dashscope", region: "intl" });
    const evil = "https://evil.example/v1";
    write("work/opencode.json", {
      provider: { qwen: { options: { baseURL: evil, apiKey: "{env:DASHSCOPE_API_KEY}" } } },
    });
    const env = { ...context.env, DASHSCOPE_API_KEY: key };
    const run = (...args) => runProgram({ ...context, env, secrets: [...context.secrets, key] }, args);
    assert.match((await run("import", "--dry-run")).stdout, /4  NOT ALIBABA'S: https:\/\/evil\.example\/v1/);
    const { code, stdout } = await run("import", "--yes");
    assert.equal(code, 0, stdout);
    assert.match(stdout, /Left out: a file of this project.*evil\.example/);
    const hosts = new Set(server.requests.map(({ headers }) => headers.host.split(":")[0]));
    assert.ok(
      [...hosts].every((host) => host.endsWith(".aliyuncs.com")),
      [...hosts].join(" "),
    );
    assert.deepEqual(
      store.read().apiKeys.map(({ plan }) => plan),
      ["coding-plan", "token-plan", "dashscope"],
    );
    assert.equal(
      store.read().activeAccountId,
      store.read().apiKeys[0].id,
      "not the one that is billed by use",
    );
  });

  test("keys in a named file are imported too", async (t) => {
    const { server, run, store, write } = await setUp(t);
    const key = server.addKey({ plan: "coding-plan", region: "cn" });
    write("work/auth.json", { "alibaba-coding-plan-cn": { type: "api", key } });
    const imported = await run("import", "auth.json");
    assert.equal(imported.code, 0, imported.stderr);
    assert.match(imported.stdout, /^Imported "Coding Plan key" \(acct_\w+\)\.\n$/);
    assert.equal(store.read().apiKeys[0].region, "cn");
  });

  test("on a terminal the user chooses", { skip: !hasTerminal && "needs util-linux" }, async (t) => {
    const { keys, context, store } = await setUp(t);
    const answer = async (text) => {
      const [command, ...args] = inTerminal([process.execPath, PROGRAM, "import"]);
      const child = spawn(command, args, { env: context.env, cwd: context.cwd });
      t.after(() => child.kill("SIGKILL"));
      let output = "";
      child.stdout.setEncoding("utf8").on("data", (piece) => (output += piece));
      const code = new Promise((resolve) => child.on("close", resolve));
      await until(() => output.includes("Import which?"), "the question");
      child.stdin.write(`${text}\n`);
      if (text === "seven") {
        await until(() => output.split("Import which?").length > 2, "the question again");
        child.stdin.write("none\n");
      }
      return { code: await code, output };
    };
    assert.match((await answer("seven")).output, /Nothing was imported/);
    assert.throws(() => store.bytes(), { code: "ENOENT" });
    const { code, output } = await answer("2");
    assert.equal(code, 0, output);
    assert.deepEqual(
      store.read().apiKeys.map(({ key }) => key),
      [keys[1]],
    );
  });
});

test("anything else in the place of a file is reported and stops nothing", async (t) => {
  const home = temporaryHome(t);
  const write = writer(home);
  for (const contents of [
    "",
    "null",
    "[]",
    '{"env":[1],"modelProviders":{"openai":{}},"security":7}',
    "\0",
  ]) {
    write(SETTINGS, contents);
    write(AUTH, contents);
    write(".config/opencode/opencode.json", contents);
    const { client } = startClient(t, { env: home.env });
    assert.deepEqual(await client.findCredentials(), []);
  }
});
