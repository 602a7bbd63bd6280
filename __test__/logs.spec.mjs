import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { QUOTA_BUT_DEGRADED, setUpAccounts } from "./support/accounts.mjs";
import { chat, EXPIRED, rejection, setUp, until } from "./support/harness.mjs";
import { startHttpProxy } from "./support/proxies.mjs";
import { SECRET_PREFIX } from "./support/qwen-server.mjs";

const BOTH = { DEBUG_QWEN_PLUGIN: "1", ENABLE_PLUGIN_REQUEST_LOGGING: "1" };

/** The logs in a home directory. */
function logsOf({ home }) {
  const directory = join(home, ".opencode/logs/qwen-plugin");
  const names = () => (existsSync(directory) ? readdirSync(directory).sort() : []);
  /** Old files may be removed at any moment. */
  const read = (name) => {
    try {
      return readFileSync(join(directory, name), "utf8");
    } catch (error) {
      if (error.code !== "ENOENT") throw error;
      return "";
    }
  };
  const records = () => names().filter((name) => name.endsWith(".json"));
  return {
    names,
    records,
    text: () => names().map(read).join("\n"),
    debug: () => (names().includes("debug.log") ? read("debug.log") : ""),
    /** Returns the records once there are `count`, oldest first. */
    async requests(count) {
      await until(() => records().length >= count, `${count} requests are logged`);
      const parse = () => records().map((name) => JSON.parse(read(name)));
      return until(() => {
        try {
          return parse();
        } catch {
          return undefined; // Being written.
        }
      }, "the records are whole");
    },
  };
}

/** Checks that the logs hold no secret. */
function assertNoSecret(logs, ...secrets) {
  const text = logs.text();
  assert.ok(text.length > 0, "there are logs");
  for (const secret of [SECRET_PREFIX, ...secrets.flat()]) {
    const forms = [secret, encodeURIComponent(secret), Buffer.from(secret).toString("base64")];
    for (const form of forms) {
      const at = text.indexOf(form);
      assert.equal(at, -1, `a secret is logged: ${text.slice(Math.max(0, at - 100), at + 100)}`);
    }
  }
}

test("each switch turns on its own log, which the first call opens", async (t) => {
  for (const [env, wanted] of [
    [{}, []],
    [{ DEBUG_QWEN_PLUGIN: "on" }, [/^debug\.log$/]],
    [{ ENABLE_PLUGIN_REQUEST_LOGGING: "on" }, [/^request-.*\.json$/]],
  ]) {
    const { home, client } = await setUp(t, { env });
    const logs = logsOf(home);
    assert.ok(!existsSync(join(home.home, ".opencode")));
    await (await chat(client, "hi")).text();
    client.close();
    await until(() => logs.names().length >= wanted.length, `${JSON.stringify(env)} writes`);
    assert.equal(logs.names().length, wanted.length);
    for (const [index, name] of logs.names().entries()) assert.match(name, wanted[index]);
  }
});

test("a request is logged with its bodies and its duration", async (t) => {
  const { home, client, server } = await setUp(t, { env: BOTH });
  const before = Date.now();
  const secrets = ["a-token-of-the-caller", "a-cookie-of-the-caller", "sk-a-key-of-the-caller"];
  const headers = {
    "content-type": "application/json",
    authorization: `Bearer ${secrets[0]}`,
    cookie: `session=${secrets[1]}`,
    "x-api-key": secrets[2],
  };
  const response = await chat(client, "what is logged?", {}, { headers });
  const body = await response.text();
  const logs = logsOf(home);
  const [record] = await logs.requests(1);
  assert.ok(Math.abs(Date.parse(record.at) - before) < 60_000, record.at);
  assert.ok(record.firstByteMs >= 0 && record.firstByteMs <= record.durationMs);
  const { label } = await client.activeAccount();
  const { url, method, model, stream, outcome, account, notes } = record;
  assert.deepEqual(
    [method, model, stream, outcome, account, notes],
    ["POST", "coder-model", false, "completed", label, []],
  );
  assert.equal(url, `${client.baseUrl}/chat/completions`);
  assert.deepEqual(record.request.body, server.seen("chat")[0].body, "the body as it was sent");
  assert.equal(record.request.bytes, Buffer.byteLength(server.seen("chat")[0].rawBody));
  assert.deepEqual(record.response.body, JSON.parse(body));
  assert.deepEqual([record.response.status, record.response.bytes], [200, Buffer.byteLength(body)]);
  assert.equal(record.response.headers["content-type"], "application/json");
  assert.ok(logs.text().includes("what is logged?"));
  assertNoSecret(logs, server.issued, secrets);
});

test("the log distinguishes attempts of several accounts, a refresh, a switch and a shorter request", async (t) => {
  const { servers, client, home } = await setUpAccounts(t, {
    shared: true,
    env: BOTH,
    tokens: { one: EXPIRED },
  });
  servers.one.script("chat", [{ ...QUOTA_BUT_DEGRADED, retryAfter: 20 }]);
  const response = await chat(client, "hi", { stream: true });
  assert.equal(response.headers.get("x-qwen-degraded"), "1");
  await response.text();
  const logs = logsOf(home);
  const [record] = await logs.requests(1);
  assert.deepEqual(
    record.attempts.map(({ account, status, verdict }) => [account, status, verdict]),
    [
      ["one", 429, "quota-exhausted"],
      ["two", 429, "quota-exhausted"],
      ["three", 429, "quota-exhausted"],
      ["one", 200, "pass"],
    ],
  );
  assert.deepEqual([record.notes, record.outcome, record.stream], [["degraded"], "completed", true]);
  await until(() => logs.debug().includes("degraded"), "the debug log has it all");
  for (const word of ["refreshed", "exhausted", "quota-exhausted", "status=429", "status=200"]) {
    assert.ok(logs.debug().includes(word), `${word} is missing in ${logs.debug()}`);
  }
  for (const line of logs.debug().trimEnd().split("\n")) {
    assert.match(line, /^\d{4}-\d\d-\d\dT[\d:.]+Z \d+ (?:DEBUG|INFO|WARN|ERROR) /);
  }
  assertNoSecret(logs, servers.one.issued);
});

test("streams, failures and aborted requests are logged with their end", async (t) => {
  const { home, client, server } = await setUp(t, { env: BOTH });
  const logs = logsOf(home);
  const record = async (count) => (await logs.requests(count)).at(-1);

  const text = await (await chat(client, "SAY 5", { stream: true })).text();
  let last = await record(1);
  assert.deepEqual(
    [last.outcome, last.stream, last.response.bytes],
    ["completed", true, Buffer.byteLength(text)],
  );
  assert.match(last.response.body, /word1.*word5.*\[DONE\]/s);

  server.script("chat", ["reset"]);
  await rejection(chat(client, "hi"), "ERR_QWEN_NETWORK");
  last = await record(2);
  assert.deepEqual([last.outcome, last.response, last.attempts[0].status], ["ERR_QWEN_NETWORK", null, null]);

  server.script("chat", [{ do: "cut", after: 2 }]);
  const cut = await chat(client, "SAY 50", { stream: true });
  await assert.rejects(cut.text(), { code: "ERR_QWEN_NETWORK" });
  last = await record(3);
  assert.equal(last.outcome, "ERR_QWEN_NETWORK");
  assert.match(last.response.body, /^data: /);

  const controller = new AbortController();
  server.script("chat", ["hang"]);
  const asked = chat(client, "hi", {}, { signal: controller.signal });
  await server.waitFor("chat", { count: 4 });
  controller.abort();
  await assert.rejects(asked, { name: "AbortError" });
  assert.equal((await record(4)).outcome, "cancelled");

  server.script("chat", ["stall"]);
  const stalled = await chat(client, "SAY 50", { stream: true });
  await stalled.body.cancel();
  assert.equal((await record(5)).outcome, "cancelled");
  assertNoSecret(logs, server.issued);
});

test("a proxy's password is in no log", async (t) => {
  const proxy = await startHttpProxy(t, { credentials: "user:hunter2-of-the-proxy" });
  const { home, client, server } = await setUp(t, { env: { ...BOTH, HTTP_PROXY: proxy.url } });
  await (await chat(client, "hi")).text();
  for (const HTTP_PROXY of [
    proxy.url.replace("hunter2-of-the-proxy", "wrong-password-1"),
    "http://user:password-to-nowhere@127.0.0.1:9",
  ]) {
    const { client: unable } = await setUp(t, { env: { ...BOTH, HTTP_PROXY, HOME: home.home } });
    await chat(unable, "hi").catch((error) => error);
  }
  const logs = logsOf(home);
  await logs.requests(3);
  assertNoSecret(logs, server.issued, "hunter2-of-the-proxy", "wrong-password-1", "password-to-nowhere");
});

test("a log that can't be written fails no request", async (t) => {
  const { home, client, events } = await setUp(t, { env: BOTH });
  writeFileSync(join(home.home, ".opencode"), "in the way");
  for (let turn = 0; turn < 3; turn += 1) assert.equal((await chat(client, "hi")).status, 200);
  client.close();
  assert.deepEqual(events, []);
});

test("nothing is printed, and a process writes its logs before it ends", async (t) => {
  const { home, server, settings } = await setUp(t, {
    env: BOTH,
    token: EXPIRED,
    server: { interval: 0.05, autoApprove: true },
  });
  server.script("chat", ["ok", { do: "quota" }, "reset", "token_rejected"]);
  const program = async (settings) => {
    const { default: qwen } = await import("opencode-qwen-cli-auth/api");
    const client = qwen.createClient({ ...settings, quotaCooldownMs: 1 });
    for (let turn = 0; turn < 5; turn += 1) {
      const body = JSON.stringify({
        model: "coder-model",
        messages: [{ role: "user", content: `turn ${turn}` }],
      });
      const init = { method: "POST", headers: { "content-type": "application/json" }, body };
      const response = await client.fetch(`${client.baseUrl}/chat/completions`, init).catch((error) => error);
      await response.text?.();
    }
    await client.login({ openBrowser: false });
    client.close();
  };
  const child = spawn(
    process.execPath,
    ["--input-type=module", "--eval", `await (${program})(${JSON.stringify(settings)})`],
    { cwd: fileURLToPath(new URL("..", import.meta.url)), stdio: ["ignore", "pipe", "pipe"] },
  );
  t.after(() => child.kill("SIGKILL"));
  const printed = Promise.all([child.stdout, child.stderr].map((stream) => stream.toArray()));
  const [code] = await once(child, "close");
  assert.deepEqual([code, await printed], [0, [[], []]]);
  const logs = logsOf(home);
  const text = logs.text();
  for (const word of ["turn 0", "turn 4", "attempt"]) assert.ok(text.includes(word), `${word} is not logged`);
  assert.equal(logs.records().length, 5);
  assert.equal(server.stats.logins, 1);
  assertNoSecret(logs, server.issued);
});
