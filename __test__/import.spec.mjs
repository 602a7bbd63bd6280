import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { runProgram } from "./support/command-line.mjs";
import { rejection, startClient, startServer, temporaryHome } from "./support/harness.mjs";
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
  return { server, home, env, write, run };
}

/** The login files of each tool. */
const FORMS = {
  ...OTHER_PLUGINS,
  "the first versions": (token) => ({
    access_token: token.access_token,
    refresh_token: token.refresh_token,
    expires: token.expiry_date,
    resource_url: token.resource_url,
  }),
  "later versions": (...tokens) => ({
    version: 1,
    activeAccountId: "acct_0",
    accounts: tokens.map((token, index) => ({
      id: `acct_${index}`,
      token,
      resource_url: token.resource_url,
    })),
  }),
  OpenCode: (token) => ({
    anthropic: { type: "api", key: "sk-ant-not-ours" },
    "qwen-code": {
      type: "oauth",
      access: token.access_token,
      refresh: token.refresh_token,
      expires: token.expiry_date,
      resourceUrl: token.resource_url,
    },
  }),
};

describe("import", { concurrency: 4, timeout: 600_000 }, () => {
  for (const [tool, form] of Object.entries(FORMS)) {
    test(`a login of ${tool} serves a chat`, async (t) => {
      const { server, home, env, write } = await setUp(t);
      const path = write("theirs.json", form(server.issueToken({ account: "alice" })));
      const before = readFileSync(path);
      const { client } = startClient(t, { env });
      const [account, ...more] = await client.importAccounts(path);
      assert.deepEqual([account.kind, account.active, more.length], ["oauth", true, 0]);
      const response = await client.fetch(`${client.baseUrl}/models`);
      assert.equal(response.status, 200);
      assert.equal(response.headers.get("x-qwen-account"), account.id);
      assert.deepEqual(readFileSync(path), before);
      assert.deepEqual(server.violations, []);
      assert.ok(!home.files().includes("oauth_creds.json"));
    });
  }

  test("the command reports the result once", async (t) => {
    const { server, home, write, run } = await setUp(t);
    const tokens = [server.issueToken({ account: "alice" }), server.issueToken({ account: "bob" })];
    write("theirs.json", FORMS["opencode-qwen-auth"](...tokens));
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

  test("a bad file gives one line with a code, and nothing is written", async (t) => {
    const { home, write, run } = await setUp(t);
    write("package.json", { name: "x" });
    for (const [file, code, says] of [
      ["package.json", "ERR_QWEN_CREDENTIALS_INVALID", /in a known format/],
      ["missing.json", "ERR_QWEN_IO", /There is no file .*missing\.json/],
    ]) {
      for (const flags of [[], ["--dry-run"]]) {
        const { code: exit, stdout, stderr } = await run("import", file, "--json", ...flags);
        assert.equal(exit, 1);
        assert.equal(JSON.parse(stdout).error.code, code);
        assert.match(stderr, says);
        assert.equal(stderr.trimEnd().split("\n").length, 1);
      }
    }
    assert.throws(() => home.files(), { code: "ENOENT" });
  });

  test("an invalid path is a caller's error", async (t) => {
    const { client } = startClient(t, { env: temporaryHome(t).env });
    for (const path of [null, "", 7, {}]) {
      await rejection(client.importAccounts(path), "ERR_QWEN_INVALID_ARGUMENT");
    }
  });
});
