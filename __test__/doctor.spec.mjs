import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";
import { withoutOpenssl } from "./support/certificates.mjs";
import { runProgram } from "./support/command-line.mjs";
import { rejection, startClient, startServer, temporaryHome } from "./support/harness.mjs";
import { startPlaces } from "./support/places.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PROGRAM = join(ROOT, "bin/opencode-qwen-cli-auth.js");
const NAME = "opencode-qwen-cli-auth";
const isUnix = process.platform !== "win32";
const PRIVATE = { mode: 0o600 };

/** A healthy home: logged in, and OpenCode configured. */
async function setUp(t, { token = {} } = {}) {
  const server = await startServer(t, { autoApprove: true });
  const home = temporaryHome(t);
  if (token !== null) home.write(server.issueToken(token));
  const bin = join(home.home, "path");
  mkdirSync(bin);
  // Fixes that call npx run this checkout.
  writeFileSync(join(bin, "npx"), `#!/bin/sh\nshift\nexec "${process.execPath}" "${PROGRAM}" "$@"\n`, {
    mode: 0o755,
  });
  symlinkSync(process.execPath, join(bin, "node"));
  const project = join(home.home, "project");
  mkdirSync(join(project, ".git"), { recursive: true });
  const context = {
    server,
    home,
    project,
    store: join(home.directory, "oauth_accounts.json"),
    config: join(home.home, ".config/opencode/opencode.json"),
    env: {
      ...home.env,
      PATH: `${bin}:/usr/bin:/bin`,
      TZ: "UTC",
      OPENCODE_QWEN_OAUTH_BASE_URL: server.url,
    },
  };
  configure(context, { plugin: [NAME] });
  return context;
}

function configure({ config }, contents, path = config) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, typeof contents === "string" ? contents : JSON.stringify(contents));
}

async function examine({ env, project, server }, options) {
  const secrets = server.issued;
  const { code, stdout, stderr } = await runProgram(
    { env, cwd: project, secrets },
    ["doctor", "--json"],
    options,
  );
  assert.equal(stderr, "");
  const findings = JSON.parse(stdout);
  for (const { id, state, message, fix } of findings) {
    assert.match(id, /^[a-z-]+$/);
    assert.ok(["ok", "warning", "broken"].includes(state));
    assert.ok(message.length > 10 && !message.includes("\n"), message);
    assert.equal(fix === undefined, state === "ok", `${id}: ${fix}`);
  }
  assert.equal(code, findings.some(({ state }) => state === "broken") ? 1 : 0);
  return findings;
}

const inState = (findings, wanted) => findings.filter(({ state }) => state === wanted);
const idsOf = (findings) => [...new Set(findings.map(({ id }) => id))];

/** Runs the command that fixes a finding. */
const applyFix = ({ env, project }, { fix }) =>
  promisify(execFile)("/bin/sh", ["-c", fix], { env, cwd: project });

/**
 * Breaks something. Doctor must report that and nothing else, and its fix must repair it.
 *
 * @param {(context: object) => unknown} breakIt
 * @param {(context: object, finding: object) => unknown} [options.repair] repairs what no command can
 */
function repairs(name, id, breakIt, { repair = applyFix } = {}) {
  test(name, async (t) => {
    const context = await setUp(t);
    await breakIt(context);
    let [finding, ...more] = inState(await examine(context), "broken");
    assert.deepEqual([finding.id, more], [id, []]);
    // A fix may reveal the next problem.
    for (let step = 0; step < 2 && finding !== undefined; step += 1) {
      await repair(context, finding);
      [finding, ...more] = inState(await examine(context), "broken");
    }
    assert.deepEqual([finding, more], [undefined, []]);
  });
}

/** All files below a directory, with their contents and attributes. */
function snapshot(directory) {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
    .map((path) => [path, statSync(path).mode, statSync(path).mtimeMs, readFileSync(path, "base64")]);
}

/** Installs a shell script as a program. */
function addProgram({ home }, name, script) {
  writeFileSync(join(home, "path", name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}

describe("doctor", { concurrency: 4, timeout: 600_000, skip: !isUnix }, () => {
  test("a healthy home has no findings, and the check changes and spends nothing", async (t) => {
    const context = await setUp(t, { token: { expiresIn: -60 } });
    const before = snapshot(context.home.home);
    const findings = await examine(context);
    assert.ok(findings.every(({ state }) => state === "ok"));
    const checks =
      "native-binary settings files file-system locks store credentials account certificates proxy oauth-server api clock qwen-cli opencode";
    for (const id of checks.split(" ")) assert.ok(idsOf(findings).includes(id), id);
    assert.deepEqual(snapshot(context.home.home), before);
    const { tokenRequests, chats, refreshes } = context.server.stats;
    assert.deepEqual([tokenRequests, chats, refreshes ?? 0], [0, 0, 0]);
    assert.deepEqual(context.server.violations, []);
  });

  test("each check is one line, with its fix", async (t) => {
    const context = await setUp(t);
    chmodSync(context.home.path, 0o644);
    const { code, stdout, stderr } = await runProgram({ ...context, cwd: context.project }, ["doctor"]);
    assert.deepEqual([code, stderr], [1, ""]);
    const lines = stdout.trimEnd().split("\n");
    assert.equal(lines.at(-1), "1 thing is broken.");
    for (const line of lines.slice(0, -1)) assert.match(line, /^(?:ok|warning|BROKEN) +[a-z-]+: \S/);
    const fix = `chmod 600 ${context.home.path}`;
    assert.ok(lines.some((line) => line.startsWith("BROKEN   files: ") && line.endsWith(`Fix: ${fix}`)));
  });

  test("the client gives the same findings", async (t) => {
    const context = await setUp(t);
    const { client } = startClient(t, { env: context.env });
    const findings = await client.doctor();
    assert.deepEqual(inState(findings, "broken"), []);
    assert.ok(idsOf(findings).includes("api"));
    client.close();
    await rejection(client.doctor(), "ERR_QWEN_INVALID_ARGUMENT");
  });

  test("a missing account is information, not a fault", async (t) => {
    const context = await setUp(t, { token: null });
    const findings = await examine(context);
    assert.deepEqual(inState(findings, "broken"), []);
    const [finding] = inState(findings, "warning");
    assert.equal(finding.id, "account");
    assert.equal(finding.fix, `npx ${NAME} add-key (a key of a plan), or npx ${NAME} login`);
    await applyFix(context, { fix: `npx ${NAME} login` });
    assert.deepEqual(inState(await examine(context), "warning"), []);
  });

  test("a key in another tool's file is named, with the command that imports it", async (t) => {
    const context = await setUp(t, { token: null });
    const path = join(context.home.directory, "settings.json");
    mkdirSync(context.home.directory, { mode: 0o700 });
    const key = "sk-sp-0123456789abcdef0123456789abcdef";
    writeFileSync(path, JSON.stringify({ env: { BAILIAN_TOKEN_PLAN_API_KEY: key } }), PRIVATE);
    const found = inState(await examine(context), "warning").find(({ id }) => id === "other-keys");
    assert.equal(found.message, `A Token Plan key is in ${path}; no account works.`);
    assert.equal(found.fix, `npx ${NAME} import`);
    await applyFix(context, { fix: `npx ${NAME} login` });
    const known = (await examine(context)).find(({ id }) => id === "other-keys");
    assert.deepEqual([known.state, known.fix], ["ok", undefined]);
  });

  test("a store of another version is set aside, and the file that is left is named", async (t) => {
    const context = await setUp(t);
    writeFileSync(context.store, '{"version": 7, "accounts": []}', PRIVATE);
    const [finding, ...more] = inState(await examine(context), "broken");
    assert.deepEqual([finding.id, more], ["store", []]);
    await applyFix(context, finding);
    const findings = await examine(context);
    assert.deepEqual(inState(findings, "broken"), []);
    const [left] = inState(findings, "warning");
    assert.equal(left.id, "set-aside");
    await applyFix(context, left);
    assert.deepEqual(inState(await examine(context), "warning"), []);
  });

  repairs("a credentials file without a login", "credentials", ({ home }) => home.write("{}"));
  repairs("a credentials file in another plugin's form", "credentials", ({ home }) => {
    const { access_token, refresh_token, expiry_date, resource_url } = home.read();
    const [accessToken, refreshToken] = [access_token, refresh_token];
    home.write({ accessToken, refreshToken, expiryDate: expiry_date, resourceUrl: resource_url });
  });
  repairs("an expired login without a refresh token", "account", ({ home }) => {
    const { refresh_token: _, ...token } = home.read();
    home.write({ ...token, expiry_date: Date.now() - 1000 });
  });
  repairs(
    "a second version in a project",
    "opencode",
    (context) =>
      configure(
        context,
        `{ "plugin": ["${NAME}@0.0.9"], /* old */ }`,
        join(context.project, "opencode.jsonc"),
      ),
    {
      repair: ({ project }, { message, fix }) => {
        const path = join(project, "opencode.jsonc");
        assert.ok(message.includes(path) && fix.includes(path), fix);
        rmSync(path);
      },
    },
  );

  test("a mistake in OpenCode's configuration is reported", async (t) => {
    const context = await setUp(t);
    addProgram(context.home, "opencode", "echo 1.3.2");
    for (const [contents, says] of [
      [{ plugin: [NAME, join(ROOT, "index.js")] }, /loaded 2 times/],
      [`{ // mine\n "plugin": ["${NAME}", "opencode-qwen-oauth@latest"], }`, /opencode-qwen-oauth/],
      [{ plugin: [[NAME, { degrade: false }]] }, /OpenCode 1\.3\.2 does not take options/],
      ['{ "plugin": [', /can't be read/],
    ]) {
      configure(context, contents);
      const [finding, ...more] = inState(await examine(context), "broken");
      assert.deepEqual([finding.id, more], ["opencode", []]);
      assert.match(finding.message, says);
    }
    configure(context, { plugin: [NAME] });
    assert.deepEqual(inState(await examine(context), "broken"), []);
  });

  /** Pastes a key at the prompt. */
  const addKey = ({ env, project }, key, ...args) =>
    runProgram({ env, cwd: project, input: `${key}\n` }, ["add-key", ...args]);

  test("a key of the wrong region is reported", { skip: withoutOpenssl }, async (t) => {
    const context = await setUp(t, { token: null });
    const { server, env } = await startPlaces(t);
    Object.assign(context, { server });
    const { HTTPS_PROXY, NODE_EXTRA_CA_CERTS } = env;
    Object.assign(context.env, {
      HTTPS_PROXY,
      NODE_EXTRA_CA_CERTS,
      OPENCODE_QWEN_OAUTH_BASE_URL: server.url,
    });
    context.env.NO_PROXY = "127.0.0.1";
    const key = server.addKey({ plan: "coding-plan", region: "intl" });
    const added = await addKey(context, key, "--no-check", "--region", "cn");
    assert.equal(added.code, 0, added.stderr);
    const [finding, ...more] = inState(await examine(context), "broken");
    assert.deepEqual([finding.id, finding.fix, more], ["api", `npx ${NAME} add-key`, []]);
    assert.match(finding.message, /another plan or region/);
    assert.equal(server.seen("chat").at(-1).body.max_tokens, 1, "it is proved by the cheapest chat");
    assert.ok(!JSON.stringify(finding).includes(key));
    const again = await addKey(context, key);
    assert.equal(again.code, 0, again.stderr);
    assert.deepEqual(inState(await examine(context), "broken"), []);
  });

  test("a version that OpenCode keeps is reported", async (t) => {
    const context = await setUp(t);
    const kept = join(context.home.home, ".cache/opencode/packages", `${NAME}@latest`);
    const manifest = join(kept, "node_modules", NAME, "package.json");
    configure(context, { name: NAME, version: "0.0.1" }, manifest);
    const [finding] = inState(await examine(context), "warning");
    assert.equal(finding.id, "version");
    assert.match(finding.message, /0\.0\.1/);
    await applyFix(context, finding);
    assert.deepEqual(inState(await examine(context), "warning"), []);
    assert.ok(!existsSync(kept));
  });

  test("a package without a native part reports parts for other systems", async (t) => {
    const context = await setUp(t);
    const copy = join(context.home.home, "node_modules", NAME);
    cpSync(ROOT, copy, {
      recursive: true,
      filter: (path) =>
        !/\/(?:\.git|node_modules|__test__|target|src|tests|fuzz|bench)(?:\/|$)/.test(
          path.slice(ROOT.length - 1),
        ),
    });
    const addon = readdirSync(copy).find((file) => file.endsWith(".node"));
    renameSync(join(copy, addon), join(copy, "kept"));
    // One for another libc or processor can't be loaded.
    writeFileSync(join(copy, addon), "\x7fELF of another machine");
    const options = { program: join(copy, "bin/opencode-qwen-cli-auth.js") };
    const [finding, ...more] = await examine(context, options);
    assert.deepEqual([finding.id, finding.state, more], ["native-binary", "broken", []]);
    assert.match(finding.message, /could not be loaded: looked for .*\.node: /);
    assert.match(finding.fix, /^npm install --include=optional opencode-qwen-cli-auth@/);
    renameSync(join(copy, "kept"), join(copy, addon));
    assert.deepEqual(inState(await examine(context, options), "broken"), []);
  });
});
