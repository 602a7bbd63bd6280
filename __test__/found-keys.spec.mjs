// Keys in other tools' files: found, listed, and imported after the user agrees.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { storeOf } from "./support/accounts.mjs";
import { withoutOpenssl } from "./support/certificates.mjs";
import { runProgram, startProgram } from "./support/command-line.mjs";
import { startClient } from "./support/harness.mjs";
import { startPlaces } from "./support/places.mjs";
import { hasTerminal } from "./support/terminal.mjs";

const SETTINGS = ".qwen/settings.json";
const AUTH = ".local/share/opencode/auth.json";
const CODING_PLAN = "https://coding-intl.dashscope.aliyuncs.com/v1";

/** A Coding Plan key in the qwen CLI's settings, and a Token Plan key in OpenCode's file. */
async function setUp(t) {
  const { server, home, env: places } = await startPlaces(t);
  const env = { ...places, PATH: process.env.PATH, TERM: "xterm" };
  const write = (name, contents) => {
    const path = join(home.home, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, typeof contents === "string" ? contents : JSON.stringify(contents));
    return path;
  };
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
    assert.match((await run("import", "--dry-run")).stdout, /4  OTHER SERVER: https:\/\/evil\.example\/v1/);
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
    const answer = async (...lines) => {
      const { child, press, printed, ended } = startProgram(context, ["import"], { terminal: {} });
      t.after(() => child.kill("SIGKILL"));
      for (const [index, line] of lines.entries()) {
        await printed(new RegExp(`(?:Import which\\?[^]*){${index + 1}}`));
        press(`${line}\n`);
      }
      return ended;
    };
    assert.match((await answer("seven", "none")).stdout, /Nothing was imported/);
    assert.throws(() => store.bytes(), { code: "ENOENT" });
    const { code, stdout } = await answer("2");
    assert.equal(code, 0, stdout);
    assert.deepEqual(
      store.read().apiKeys.map(({ key }) => key),
      [keys[1]],
    );
  });
});
