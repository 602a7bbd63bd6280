import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";
import { PROGRAM, startProgram } from "./support/command-line.mjs";
import { sleep, startServer, temporaryHome } from "./support/harness.mjs";
import { SECRET_PREFIX } from "./support/qwen-server.mjs";
import { hasTerminal, screenAfter } from "./support/terminal.mjs";

const { version } = createRequire(import.meta.url)("../package.json");
const { width, clip, json } = createRequire(import.meta.url)("../lib/cli/text.js");

const HOUR = 3_600_000;
const APPROVED = { autoApprove: true };

async function setUp(t, { server: serverOptions, accounts, env } = {}) {
  const server = await startServer(t, serverOptions);
  const home = temporaryHome(t);
  const context = {
    server,
    home,
    storePath: join(home.directory, "oauth_accounts.json"),
    env: {
      ...home.env,
      PATH: process.env.PATH,
      TERM: "xterm",
      TZ: "UTC",
      OPENCODE_QWEN_OAUTH_BASE_URL: server.url,
      ...env,
    },
  };
  if (accounts !== undefined) writeAccounts(context, accounts);
  const start = (args, options) => {
    const program = startProgram({ env: context.env, secrets: server.issued }, args, options);
    t.after(() => program.child.kill("SIGKILL"));
    return program;
  };
  return { ...context, start, run: (...args) => start(args).ended };
}

/** Writes logins into the store. The first is the active one, and the qwen CLI's. */
function writeAccounts({ server, home, storePath }, accounts) {
  const records = accounts.map(({ expiresIn, canRefresh = true, ...record }, index) => {
    const token = server.issueToken({ account: `user-${index}`, expiresIn });
    if (!canRefresh) delete token.refresh_token;
    return {
      id: `acct_${index + 1}`,
      createdAt: 1_700_000_000_000,
      resource_url: token.resource_url,
      token,
      ...record,
    };
  });
  home.write(records[0].token);
  const store = { version: 1, activeAccountId: records[0].id, accounts: records };
  const next = `${storePath}.next`;
  writeFileSync(next, JSON.stringify({ ...store, credentialsAccountId: records[0].id }), { mode: 0o600 });
  renameSync(next, storePath);
}

const CTRL_C = "\x03";

/** Two different remaining times. */
const TICKED = /(\d\d:\d\d)[^]*(?!\1)\d\d:\d\d/;

function assertFailed({ code, stdout, stderr }, pattern) {
  assert.equal(code, 1, stderr);
  assert.equal(stdout, "");
  assert.match(stderr, pattern);
  assert.match(stderr, /^[^\n]+\n$/, "one line");
}

/** With --json, a failure is printed as JSON and as a line. */
function failureOf({ code, stdout, stderr }) {
  assert.equal(code, 1, stderr);
  const { error, ...rest } = JSON.parse(stdout);
  assert.deepEqual(rest, {});
  assert.equal(stderr, `${error.message}\n`);
  return error;
}

const done = ({ code, stdout, stderr }) => {
  assert.deepEqual([code, stderr], [0, ""]);
  return stdout;
};

const linesOf = (text) => text.replace(/\n$/, "").split("\n");

describe("the command line", { concurrency: 4, timeout: 600_000 }, () => {
  test("help and version need no account and no network", async (t) => {
    const { run, home } = await setUp(t, { env: { OPENCODE_QWEN_BASE_URL: "nonsense" } });
    for (const args of [["--version"], ["-v"], ["status", "--version"]]) {
      assert.equal(done(await run(...args)), `${version}\n`);
    }
    assert.deepEqual(JSON.parse(done(await run("--json", "--version"))), { version });
    const general = done(await run("--help"));
    for (const command of ["login", "accounts", "use <id|label>", "remove <id|label>", "status"]) {
      assert.ok(general.includes(`  ${command}  `), command);
      const own = done(await run(command.split(" ")[0], "-h"));
      assert.ok(own.startsWith(`Usage: opencode-qwen-cli-auth ${command} `), own);
    }
    assert.match(
      done(await run("login", "--help")),
      /--label L .*\n.*--replace <id\|label> .*\n.*--no-browser /,
    );
    for (const line of linesOf(general)) assert.ok(width(line) <= 100, line);
    assert.equal(existsSync(home.directory), false);
  });

  test("wrong arguments are reported with the usage, and nothing is done", async (t) => {
    const { run, home, server } = await setUp(t);
    const cases = [
      [[], /A command is missing/, / <command> /],
      [["frobnicate"], /There is no command "frobnicate"/, / <command> /],
      [["a\x1b[31m\u009b1mb"], /There is no command/, / <command> /],
      [["__proto__"], /There is no command/, / <command> /],
      [["frobnicate", "--help"], /There is no command/, / <command> /],
      [["accounts", "--frobnicate"], /--frobnicate/, / accounts \[--watch\]/],
      [["accounts", "--label", "x"], /Unknown option --label of accounts/, / accounts \[--watch\]/],
      [["--watch"], /Unknown option --watch\./, / <command> /],
      [["login", "--label"], /--label/, / login \[--label L\]/],
      [["login", "--label", " "], /--label is empty/, / login /],
      [["login", "--watch"], /Unknown option --watch of login/, / login /],
      [["login", "me"], /"me" is one argument too many/, / login /],
      [["use"], /use needs <id\|label>/, / use <id\|label>/],
      [["use", ""], /use needs/, / use /],
      [["use", "a", "b"], /"b" is one argument too many/, / use /],
      [["remove", "--json"], /remove needs <id\|label>/, / remove <id\|label>/],
      [["status", "--json=yes"], /--json/, / status /],
    ];
    await Promise.all(
      cases.map(async ([args, problem, usage]) => {
        const { code, stdout, stderr } = await run(...args);
        assert.deepEqual([code, stdout], [2, ""], args.join(" "));
        const [first, second, ...rest] = linesOf(stderr);
        assert.match(first, problem);
        assert.match(second, /^Usage: /);
        assert.match(second, usage);
        assert.deepEqual(rest, ["See opencode-qwen-cli-auth --help."]);
        assert.ok(!/\p{Cc}/u.test(first), first);
      }),
    );
    assert.deepEqual([server.requests.length, existsSync(home.directory)], [0, false]);
  });

  test("a login shows address and code once, and adds the account", async (t) => {
    const { run, server, home } = await setUp(t, { server: APPROVED });
    const lines = linesOf(done(await run("login", "--label", "work", "--no-browser")));
    const [, userCode] = /user_code=(\S+?)&/.exec(lines[2]);
    assert.equal(lines[2], `  ${server.url}/authorize?user_code=${userCode}&client=qwen-code`);
    assert.equal(lines[4], `The code is ${userCode}. It is valid for 15 min.`);
    assert.match(lines[5], /^Logged in as "work" \(acct_\w+\)\. It is the active account now/);
    assert.equal(lines.length, 6);
    assert.equal(home.read().access_token.startsWith(SECRET_PREFIX), true);

    const second = done(await run("login", "--label", "private"));
    assert.match(second, /Logged in as "private" \(acct_\w+\)\./);
    const accounts = JSON.parse(done(await run("accounts", "--json")));
    assert.deepEqual(
      accounts.map(({ label, active }) => [label, active]),
      [
        ["work", false],
        ["private", true],
      ],
    );
    assert.deepEqual([server.stats.logins, server.violations], [2, []]);
  });

  test("a login with --json prints address and code outside of the JSON", async (t) => {
    const { run } = await setUp(t, { server: APPROVED });
    const { code, stdout, stderr } = await run("login", "--json", "--label", "work");
    assert.equal(code, 0);
    const account = JSON.parse(stdout);
    assert.deepEqual([account.label, account.state, account.active], ["work", "ready", true]);
    assert.match(stderr, /user_code=/);
    const [{ usage, ...listed }, ...rest] = JSON.parse(done(await run("accounts", "--json")));
    assert.deepEqual([listed, usage.today.requests, rest], [account, 0, []]);
  });

  test("a login renews an account by its id or label", async (t) => {
    const accounts = [{ label: "work" }, { label: "old" }];
    const { run, server } = await setUp(t, { server: APPROVED, accounts });
    const renewed = JSON.parse((await run("login", "--replace", "old", "--json")).stdout);
    assert.deepEqual([renewed.id, renewed.label], ["acct_2", "old"]);
    assert.equal(JSON.parse(done(await run("accounts", "--json"))).length, 2);
    const before = server.requests.length;
    assertFailed(await run("login", "--replace", "nobody"), /No account has the id or label "nobody"/);
    assert.equal(server.requests.length, before, "no login was started");
  });

  test("a login that is refused, expires or can't start fails with one line", async (t) => {
    const { run, start, server, env } = await setUp(t, { server: { deviceExpiresIn: 600 } });
    const cases = [
      ["denied", /denied|refused/i, "ERR_QWEN_ACCESS_DENIED"],
      ["expired", /expired|in time/i, "ERR_QWEN_DEVICE_CODE_EXPIRED"],
    ];
    for (const [step, pattern, code] of cases) {
      server.script("token", [step, step]);
      const { code: exitCode, stdout, stderr } = await run("login");
      assert.equal(exitCode, 1);
      assert.match(stdout, /The code is/);
      assert.match(stderr, pattern);
      assert.equal(linesOf(stderr).length, 1);
      const asJson = await run("login", "--json");
      const { error } = JSON.parse(asJson.stdout);
      assert.deepEqual([asJson.code, error.code], [1, code]);
      assert.equal(linesOf(asJson.stderr).at(-1), error.message);
    }
    await server.close();
    assertFailed(await run("login"), /\./);
    assert.equal(failureOf(await run("login", "--json")).retryable, true);
    env.OPENCODE_QWEN_OAUTH_BASE_URL = "http://chat.example";
    assertFailed(await run("login"), /OPENCODE_QWEN_OAUTH_BASE_URL/);
    assert.equal(failureOf(await start(["login", "--json"]).ended).code, "ERR_QWEN_INVALID_CONFIG");
  });

  for (const signal of ["SIGINT", "SIGTERM"]) {
    test(`${signal} ends a login, and leaves no file`, async (t) => {
      const { start, home } = await setUp(t);
      const login = start(["login"]);
      await login.printed(/The code is/);
      login.child.kill(signal);
      const { code, stderr } = await login.ended;
      assert.deepEqual([code, stderr], [signal === "SIGINT" ? 130 : 143, "Cancelled.\n"]);
      assert.deepEqual(home.files(), []);
    });
  }

  test("the accounts are a table", async (t) => {
    const now = Date.now();
    const accounts = [
      { label: "work", expiresIn: 2 * 3600 + 90 },
      { label: "中文 👩‍💻 é", exhaustedUntil: now + HOUR, expiresIn: 3 * 86_400 + 60 },
      {
        label: "evil\x1b[2J\r\nroot\u009b31m\u202e\u2028",
        expiresIn: -90,
        lastError: { code: "ERR_QWEN_TOKEN_REJECTED", message: "No. Log\nin \x1b[1magain.", at: now },
      },
      { expiresIn: -3600, canRefresh: false, label: "x".repeat(100) },
    ];
    const { run } = await setUp(t, { accounts });
    const lines = linesOf(done(await run("accounts")));
    // Columns without a label are left out first in a narrow terminal.
    assert.deepEqual(lines[0].trim().split(/ {2,}/), ["ACCOUNT", "STATE", "LAST ERROR"]);
    assert.equal(lines.length, 5);
    assert.match(lines[1], /^\* {2}work +ready$/);
    assert.match(lines[2], /^ {3}中文 👩‍💻 é +cooling (?:60:00|59:\d\d)$/u);
    assert.match(lines[3], /^ {3}evil\ufffd\[2J \S.* +ready +token rejected$/);
    assert.match(lines[4], /^ {3}x+… +needs-login$/);
    const state = width(lines[0].slice(0, lines[0].indexOf("STATE")));
    for (const line of lines) {
      assert.ok(width(line) <= 80, line);
      assert.doesNotMatch(line, /[\p{Cc}\u2028\u202e]/u);
      assert.equal(width(line.slice(0, line.search(/STATE|ready|cooling|needs-login/))), state, "aligned");
    }

    const asJson = await run("accounts", "--json");
    assert.doesNotMatch(asJson.stdout.replaceAll("\n", ""), /[\p{Cc}\u2028\u202e]/u);
    const listed = JSON.parse(done(asJson));
    assert.deepEqual(
      listed.map(({ id, state }) => [id, state]),
      [
        ["acct_1", "ready"],
        ["acct_2", "cooling"],
        ["acct_3", "ready"],
        ["acct_4", "needs-login"],
      ],
    );
    assert.equal(listed[2].label, "evil\ufffd[2J root\ufffd31m\ufffd\ufffd");
  });

  test("the table shows each account's usage with a bar", async (t) => {
    const { run, home } = await setUp(t, { accounts: [{ label: "work" }, { label: "other" }, {}] });
    const [hour, day] = [Math.floor(Date.now() / HOUR), Math.floor(Date.now() / (24 * HOUR))];
    const row = (requests, inputTokens, cachedTokens, outputTokens) => {
      const counts = { requests, withoutUsage: 0, inputTokens, cachedTokens, outputTokens };
      return { hours: { [hour]: counts }, days: { [day]: counts } };
    };
    const accounts = { acct_1: row(1234, 3_000_000, 1_999_999, 400_000), acct_2: row(7, 850_000, 0, 0) };
    const usagePath = join(home.directory, "opencode_qwen_usage.json");
    writeFileSync(usagePath, JSON.stringify({ version: 1, accounts }));
    for (const command of ["accounts", "status"]) {
      const table = linesOf(done(await run(command))).slice(-5);
      assert.match(table[0], /^ {3}ACCOUNT {4}STATE {2}TODAY +LAST 5 H +CACHED/);
      assert.match(table[1], /^\* {2}work +ready {2}1\.23K · 3\.4M {2}████████ {2}1\.23K · 3\.4M {2}66 %$/);
      assert.match(table[2], /^ {3}other +ready {2}7 · 850K +██ {8}7 · 850K +0 %$/);
      assert.match(table[3], /^ {3}Account 3 {2}ready$/);
      assert.match(table[4], /^Requests · tokens\. Bars: the last five hours\.$/);
    }
    const listed = JSON.parse(done(await run("accounts", "--json")));
    assert.deepEqual(
      listed.map(({ usage }) => usage.today.inputTokens),
      [3_000_000, 850_000, 0],
    );
    const status = JSON.parse(done(await run("status", "--json")));
    assert.equal(status.activeAccount.usage.week.requests, 1234);

    // Missing figures are reported beside the accounts.
    writeFileSync(usagePath, JSON.stringify({ version: 2 }));
    const without = await run("accounts");
    assert.deepEqual([without.code, /^\* {2}work +ready$/m.test(without.stdout)], [0, true]);
    assert.match(without.stderr, /^Note: .*opencode_qwen_usage\.json.*another version.*\n$/);
  });

  test("an empty list of accounts is not a failure", async (t) => {
    const { run, home } = await setUp(t);
    assert.equal(
      done(await run("accounts")),
      "There is no account. Log in with: opencode-qwen-cli-auth login\n",
    );
    assert.equal(done(await run("accounts", "--json")), "[]\n");
    assert.match(done(await run("status")), /^Account +none\. Log in with: /);
    const status = JSON.parse(done(await run("status", "--json")));
    assert.deepEqual([status.activeAccount, status.token, status.accounts.total], [null, null, 0]);
    assert.equal(existsSync(home.directory), false);
    for (const command of ["use", "remove"]) {
      assertFailed(await run(command, "work"), /^There is no account\. Log in with: /);
      const error = failureOf(await run(command, "work", "--json"));
      assert.deepEqual([error.code, error.retryable], ["ERR_QWEN_NOT_LOGGED_IN", false]);
    }
  });

  test("an account is chosen by its id or label", async (t) => {
    const { run, home, storePath } = await setUp(t, { accounts: [{ label: "work" }, { label: "Café ☕" }] });
    const text = done(await run("use", "Cafe\u0301 ☕"));
    assert.equal(text, '"Café ☕" (acct_2) is the active account now, and the one of the qwen CLI.\n');
    const { access_token } = JSON.parse(readFileSync(storePath, "utf8")).accounts[1].token;
    assert.equal(home.read().access_token, access_token);
    const account = JSON.parse(done(await run("use", "acct_1", "--json")));
    assert.deepEqual([account.id, account.label, account.active], ["acct_1", "work", true]);
    assert.match(done(await run("accounts")), /^\* {2}work/m);
  });

  test("an unknown or ambiguous label is refused", async (t) => {
    const accounts = [{ label: "work" }, { label: "twin" }, { label: "twin" }, { label: "acct_1" }];
    const { run, storePath } = await setUp(t, { accounts });
    await run("accounts");
    const before = readFileSync(storePath, "utf8");
    for (const command of ["use", "remove"]) {
      assertFailed(await run(command, "twin"), /^2 accounts are called "twin"\. .*: acct_2, acct_3$/m);
      assertFailed(await run(command, "Work\x1b[1m"), /^No account .*"Work\ufffd\[1m".*"work", "twin"/);
      assert.equal(failureOf(await run(command, "Work", "--json")).code, "ERR_QWEN_INVALID_ARGUMENT");
    }
    assert.equal(readFileSync(storePath, "utf8"), before);
    assert.match(done(await run("use", "acct_1")), /"work" \(acct_1\)/, "an id wins over a label");
    assert.match(done(await run("remove", "acct_3")), /Removed "twin" \(acct_3\)/);
    assert.match(done(await run("use", "twin")), /acct_2/);
  });

  test("an argument that looks like a secret is not repeated", async (t) => {
    const { run } = await setUp(t, { accounts: [{ label: "work" }] });
    const secret = "Zx9Qw7er5Ty3ui1Op2As4Df6";
    for (const args of [
      ["use", secret],
      ["remove", secret, "--json"],
      ["rename", secret, "x"],
      ["enable", secret],
      ["disable", secret],
      ["import", secret],
      ["login", "--no-browser", "--replace", secret],
      ["serve", "--key-file", `./${secret}/x`],
    ]) {
      const { code, stdout, stderr } = await run(...args);
      assert.notEqual(code, 0, args.join(" "));
      assert.ok(!(stdout + stderr).includes(secret), `${args[0]}: ${stdout}${stderr}`);
    }
  });

  test("a key in a path of the environment is not repeated", async (t) => {
    const path = "/dev/null/sk-sp-0123456789abcdef";
    for (const args of [["login", "--no-browser"], ["accounts", "--json"], ["doctor"]]) {
      const { run } = await setUp(t, { env: { OPENCODE_QWEN_ACCOUNTS_PATH: path } });
      const { code, stdout, stderr } = await run(...args);
      assert.notEqual(code, 0, args.join(" "));
      const output = stdout + stderr;
      assert.ok(output.includes("/dev/null/***") && !output.includes("sk-sp"), output);
    }
  });

  test("a removed account stays removed, and the qwen CLI's login is removed only with its account", async (t) => {
    const { run, home, storePath } = await setUp(t, {
      accounts: [{ label: "work" }, { label: "other" }, { label: "third" }],
    });
    assert.equal(done(await run("remove", "other")), 'Removed "other" (acct_2).\n');
    assert.equal(existsSync(home.path), true);
    assert.equal(
      done(await run("remove", "work")),
      'Removed "work" (acct_1).\nThe qwen CLI used this login too; it is logged out.\n',
    );
    assert.equal(existsSync(home.path), false);
    const copy = join(home.directory, "copy.json");
    const { token } = JSON.parse(readFileSync(storePath, "utf8")).accounts.find(({ id }) => id === "acct_3");
    writeFileSync(copy, JSON.stringify(token));
    const removed = JSON.parse(done(await run("remove", "acct_3", "--json")));
    assert.deepEqual(removed, { removed: "acct_3", leftBehind: [copy] });
    rmSync(copy);
    assert.equal(done(await run("accounts", "--json")), "[]\n");
  });

  test("the status is a summary", async (t) => {
    const accounts = [
      {
        label: "work",
        lastError: { code: "ERR_QWEN_NETWORK", message: "Cable cut. Mend it.", at: Date.now() - 65_000 },
      },
      { label: "cold", exhaustedUntil: Date.now() + HOUR },
      { label: "old", expiresIn: -60, canRefresh: false },
    ];
    const context = await setUp(t, { accounts, env: { QWEN_MODE: "perhaps" } });
    const { run, home, server } = context;
    const text = done(await run("status"));
    assert.match(text, /^Account +"work" \(acct_1\), ready$/m);
    assert.ok(text.includes(`API       ${server.apiBaseUrl}\n`), text);
    assert.match(text, /^Error +Cable cut\. Mend it\. \(1 min ago\)$/m);
    assert.match(text, /^Token +valid, expires in 5 h 59 min$/m);
    assert.match(text, /^Accounts +3: 1 ready, 1 cooling, 1 in need of a login$/m);
    assert.ok(text.includes(`Files     ${home.directory}\n`), text);
    assert.match(text, /^Note +QWEN_MODE is neither/m);
    assert.ok(text.includes(`opencode-qwen-cli-auth ${version}, Node.js ${process.versions.node}`), text);

    const status = JSON.parse(done(await run("status", "--json")));
    assert.equal(status.activeAccount.id, "acct_1");
    assert.equal(status.token.valid, true);
    assert.deepEqual(status.accounts, { total: 3, ready: 1, cooling: 1, needsLogin: 1 });
    assert.deepEqual(status.versions, { package: version, node: process.versions.node });
    assert.match(status.notes[0], /QWEN_MODE/);

    // Other commands also report ignored settings, beside their answer.
    const other = await run("accounts", "--json");
    assert.deepEqual([other.code, JSON.parse(other.stdout).length], [0, 3]);
    assert.match(other.stderr, /^Note: QWEN_MODE is neither .*\n$/);

    writeAccounts(context, [{ label: "work", expiresIn: -300 }]);
    assert.match((await run("status")).stdout, /^Token +expired 5 min ago; the next request refreshes it$/m);
    assert.equal(JSON.parse((await run("status", "--json")).stdout).token.valid, false);
  });

  test("a damaged store is reported; a damaged login is a failure", async (t) => {
    const { run, home, storePath } = await setUp(t);
    mkdirSync(home.directory, { recursive: true });
    writeFileSync(storePath, "{ not json");
    const repaired = await run("accounts");
    assert.deepEqual([repaired.code, repaired.stdout.startsWith("There is no account")], [0, true]);
    assert.match(repaired.stderr, /^Note: .*oauth_accounts\.json.*corrupt-.*\n$/);

    home.write("{ not json");
    for (const args of [["accounts"], ["status"], ["use", "x"], ["accounts", "--watch"]]) {
      assertFailed(await run(...args), /oauth_creds\.json/);
    }
    const error = failureOf(await run("status", "--json"));
    assert.deepEqual([error.code, error.path], ["ERR_QWEN_CREDENTIALS_INVALID", home.path]);
  });

  test("an unreadable store is a failure", async (t) => {
    const { run, env, home } = await setUp(t);
    writeFileSync(home.directory, "no directory");
    assertFailed(await run("accounts"), /\.qwen/);
    assert.equal(failureOf(await run("accounts", "--json")).code, "ERR_QWEN_IO");
    env.OPENCODE_QWEN_ACCOUNTS_PATH = "/etc/accounts.json";
    assertFailed(await run("accounts"), /OPENCODE_QWEN_ACCOUNTS_PATH/);
    assert.equal(failureOf(await run("use", "x", "--json")).code, "ERR_QWEN_PATH_NOT_ALLOWED");
  });

  test("Ctrl-C while a token is redeemed does not lose the token", async (t) => {
    const accounts = [{ label: "work" }, { label: "old", expiresIn: -60 }];
    const { start, server, home } = await setUp(t, { accounts });
    let answer;
    const held = new Promise((resolve) => {
      answer = resolve;
    });
    server.script("token", [{ do: "ok", delay: () => held }]);
    const use = start(["use", "old"]);
    await server.waitFor("token", 30_000);
    use.child.kill("SIGINT");
    await use.printed(/Cancelled/, "stderr");
    answer();
    assert.equal((await use.ended).code, 130);
    assert.equal(server.stats.redemptions, 1);
    assert.ok(home.read().expiry_date > Date.now(), "the new token is in the file");
    assert.ok(server.issued.includes(home.read().refresh_token));
  });

  test("watching prints what changes, and ends at Ctrl-C", async (t) => {
    const context = await setUp(t, { accounts: [{ label: "work" }] });
    const plain = context.start(["accounts", "--watch"]);
    const asJson = context.start(["accounts", "--watch", "--json"]);
    await Promise.all([plain.printed(/work/), asJson.printed(/work/)]);
    await sleep(2200);
    assert.equal(plain.output.stdout.match(/ACCOUNT/g).length, 1, "nothing changed");
    writeAccounts(context, [{ label: "work" }, { label: "second" }]);
    await Promise.all([plain.printed(/second/), asJson.printed(/second/)]);
    plain.child.kill("SIGINT");
    asJson.child.kill("SIGINT");
    const text = done(await plain.ended);
    assert.doesNotMatch(text, /\p{Cc}(?<!\n)/u);
    const lines = linesOf(done(await asJson.ended)).map((line) => JSON.parse(line));
    assert.deepEqual([lines[0].length, lines.at(-1).length], [1, 2]);
  });

  test("it ends quietly when its reader closes the pipe", async (t) => {
    const context = await setUp(t, { accounts: [{ label: "work" }] });
    const watch = context.start(["accounts", "--watch"]);
    await watch.printed(/work/);
    watch.child.stdout.destroy();
    writeAccounts(context, [{ label: "work" }, { label: "second" }]);
    const { stderr, signal } = await watch.ended;
    assert.deepEqual([stderr, signal], ["", null]);
  });

  test("unwritable output is a failure", { skip: !existsSync("/dev/full") }, async (t) => {
    const { env } = await setUp(t, { accounts: [{ label: "work" }] });
    for (const args of [["--help"], ["accounts"], ["accounts", "--watch"]]) {
      const stdio = ["ignore", openSync("/dev/full", "w"), "pipe"];
      const child = spawn(process.execPath, [PROGRAM, ...args], { env, stdio });
      t.after(() => child.kill("SIGKILL"));
      closeSync(stdio[1]);
      const closed = once(child, "close");
      const stderr = await child.stderr.setEncoding("utf8").toArray();
      assert.deepEqual(await closed, [1, null]);
      assert.match(stderr.join(""), /^Could not write the output: ENOSPC.*\n$/);
    }
  });

  describe(
    "on a terminal",
    { concurrency: 4, skip: !hasTerminal && "there is no `script` of util-linux" },
    () => {
      test("a login counts down on one line, and clears it", async (t) => {
        const { start, server } = await setUp(t);
        const login = start(["login", "--no-browser", "--label", "work"], { terminal: {} });
        await login.printed(TICKED);
        const waiting = screenAfter(login.output.stdout);
        assert.match(waiting.at(-1), /^Waiting for your approval, 1\d:\d\d left\. Ctrl-C gives up\.$/);
        assert.equal(waiting.filter((line) => line.includes("left")).length, 1);
        server.approve();
        const { code, stdout } = await login.ended;
        assert.equal(code, 0);
        const screen = screenAfter(stdout);
        assert.match(screen.at(-2), /^Logged in as "work" \(acct_\w+\)\. It is the active account now\.$/);
        assert.doesNotMatch(screen.join("\n"), /left/);
      });

      test("Ctrl-C ends a login in a terminal, and clears the countdown", async (t) => {
        const { start, home } = await setUp(t);
        const login = start(["login", "--no-browser"], { terminal: {} });
        await login.printed(/left/);
        login.press(CTRL_C);
        const { code, stdout } = await login.ended;
        assert.equal(code, 130);
        const screen = screenAfter(stdout);
        assert.deepEqual(screen.slice(-2), ["Cancelled.", ""]);
        assert.doesNotMatch(screen.join("\n"), /left/);
        assert.deepEqual(home.files(), []);
      });

      test("lines fit a narrow terminal, and a dumb one gets plain lines", async (t) => {
        const { start, env } = await setUp(t);
        for (const [columns, form] of [
          [30, /^Waiting, 1\d:\d\d left\.$/],
          [12, /^1\d:\d\d$/],
        ]) {
          const login = start(["login"], { terminal: { columns } });
          await login.printed(TICKED);
          const screen = screenAfter(login.output.stdout, columns);
          assert.match(screen.at(-1), form);
          assert.equal(screen.filter((line) => /1\d:\d\d/.test(line)).length, 1);
          login.press(CTRL_C);
          assert.equal((await login.ended).code, 130);
        }
        env.TERM = "dumb";
        const login = start(["login"], { terminal: {} });
        await login.printed(/The code is/);
        login.press(CTRL_C);
        const { stdout } = await login.ended;
        assert.doesNotMatch(stdout, /\p{Cc}(?<![\r\n])|left/u);
      });

      test("watching redraws the table in place, without a cursor", async (t) => {
        const context = await setUp(t, { accounts: [{ label: "work" }], env: { QWEN_MODE: "perhaps" } });
        const watch = context.start(["accounts", "--watch"], { terminal: {} });
        await watch.printed(/work/);
        writeAccounts(context, [{ label: "work" }, { label: "second" }]);
        await watch.printed(/second/);
        watch.press(CTRL_C);
        const { code, stdout } = await watch.ended;
        assert.equal(code, 0);
        const screen = screenAfter(stdout);
        assert.match(screen[0], /^ {3}ACCOUNT/);
        assert.match(screen[1], /^\* {2}work/);
        assert.match(screen[2], /^ {3}second/);
        assert.match(screen[3], /^QWEN_MODE is neither/);
        assert.equal(screen.join("\n").trimEnd().split("\n").length, 4, screen.join("\n"));
        // oxlint-disable-next-line no-control-regex
        assert.deepEqual(stdout.match(/\x1b\[\?25[hl]/g), ["\x1b[?25l", "\x1b[?25h"]);
      });

      test("colours appear only in terminals that have them, unless the user disables them", async (t) => {
        const { start, env } = await setUp(t, { accounts: [{ label: "work" }] });
        // oxlint-disable-next-line no-control-regex
        const sgr = /\x1b\[\d+m/;
        for (const [more, isColoured] of [
          [{ TERM: "xterm-256color" }, true],
          [{ TERM: "xterm-256color", NO_COLOR: "1" }, false],
          [{ TERM: "dumb" }, false],
        ]) {
          delete env.NO_COLOR;
          Object.assign(env, more);
          for (const command of ["accounts", "status"]) {
            const { stdout } = await start([command], { terminal: {} }).ended;
            assert.match(stdout, /work/);
            assert.equal(sgr.test(stdout), isColoured, `${command} ${JSON.stringify(more)}`);
          }
        }
      });

      test("watching fits a small terminal", async (t) => {
        const accounts = Array.from({ length: 12 }, (_, index) => ({
          label: `a rather long label ${index}`,
          exhaustedUntil: Date.now() + HOUR,
        }));
        const { start } = await setUp(t, { accounts });
        const terminal = { columns: 40, rows: 8 };
        const watch = start(["accounts", "--watch"], { terminal });
        await watch.printed(/ACCOUNT[^]*ACCOUNT[^]*…/);
        watch.press(CTRL_C);
        const { code, stdout } = await watch.ended;
        assert.equal(code, 0);
        const screen = screenAfter(stdout, terminal.columns);
        assert.ok(screen.length <= terminal.rows, screen.join("\n"));
        assert.equal(screen.filter((line) => line.includes("ACCOUNT")).length, 1);
        assert.match(screen[1], /^\* {2}a rather long label 0 {2}cooling (?:60:00|59:\d\d)$/);
        for (const line of stripVTControlCharacters(stdout).split("\n").slice(0, 6))
          assert.ok(width(line.trimEnd()) < 40, line);
      });
    },
  );

  test("the width of a text counts its cells", () => {
    const cases = [
      ["abc", 3],
      ["é", 1],
      ["中文", 4],
      ["ｱ", 1],
      ["Ａ", 2],
      ["한국", 4],
      ["👍🏽", 2],
      ["👩‍💻", 2],
      ["🇩🇪", 2],
      ["❤️", 2],
      ["☕", 2],
      ["\u200b", 0],
    ];
    for (const [text, expected] of cases) assert.equal(width(text), expected, text);
    assert.deepEqual(
      [clip("中文字", 6), clip("中文字", 5), clip("中文字", 4), clip("abc", 0)],
      ["中文字", "中文…", "中…", ""],
    );
    assert.equal(json("\u009b\u202e\x1b"), String.raw`"\u009b\u202e\u001b"`);
  });

  test("the program that package.json names can be run", () => {
    const { bin, files } = createRequire(import.meta.url)("../package.json");
    assert.equal(fileURLToPath(new URL(`../${bin["opencode-qwen-cli-auth"]}`, import.meta.url)), PROGRAM);
    assert.ok(files.includes("bin"));
    assert.ok(process.platform === "win32" || statSync(PROGRAM).mode & 0o100);
  });
});
