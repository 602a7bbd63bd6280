import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { runProgram } from "./support/command-line.mjs";
import { startServer, temporaryHome } from "./support/harness.mjs";
import { OTHER_PLUGINS } from "./support/other-plugins.mjs";

async function setUp(t) {
  const server = await startServer(t);
  const home = temporaryHome(t);
  const env = { ...home.env, PATH: process.env.PATH, TZ: "UTC", OPENCODE_QWEN_OAUTH_BASE_URL: server.url };
  const write = (name, contents) => {
    const path = join(home.home, name);
    writeFileSync(path, typeof contents === "string" ? contents : JSON.stringify(contents));
    return path;
  };
  const run = (...args) => runProgram({ env, cwd: home.home, secrets: server.issued }, args);
  return { server, home, write, run };
}

describe("import", { concurrency: 4, timeout: 600_000 }, () => {
  test("the command reports the result once", async (t) => {
    const { server, home, write, run } = await setUp(t);
    const tokens = [server.issueToken({ account: "alice" }), server.issueToken({ account: "bob" })];
    write("theirs.json", OTHER_PLUGINS["opencode-qwen-auth"](...tokens));
    const preview = async () =>
      JSON.parse((await run("import", "theirs.json", "--dry-run", "--json")).stdout);
    assert.deepEqual(
      (await preview()).map(({ provider, lastFour, known }) => [provider, lastFour, known]),
      tokens.map(({ access_token }) => ["qwen-code", access_token.slice(-4), false]),
    );
    assert.match((await run("import", "theirs.json", "--dry-run")).stdout, /^ {2}1 {2}login, http\S+ +…/m);
    assert.ok(!existsSync(join(home.directory, "oauth_accounts.json")));
    const first = await run("import", "theirs.json");
    assert.deepEqual([first.code, first.stderr], [0, ""]);
    assert.match(
      first.stdout,
      /^Imported "Account 1" \(.+\)\.\nImported "Account 2" \(.+\)\.\nOnly one program can/,
    );
    assert.match(first.stdout, /opencode\.json/);
    const again = await run("import", "theirs.json");
    assert.deepEqual(
      [again.code, again.stdout],
      [0, "Nothing new: every account in theirs.json is known already.\n"],
    );
    assert.ok((await preview()).every(({ known }) => known));
    assert.match((await run("import", "theirs.json", "--dry-run")).stdout, /\nNothing is new\.\n$/);
    const json = await run("import", "theirs.json", "--json");
    assert.deepEqual(JSON.parse(json.stdout), []);
    const list = JSON.parse((await run("accounts", "--json")).stdout);
    assert.deepEqual(
      list.map(({ active, state }) => [active, state]),
      [
        [true, "ready"],
        [false, "ready"],
      ],
    );
  });
});
