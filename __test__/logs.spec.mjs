import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { QUOTA_BUT_DEGRADED, setUpAccounts } from "./support/accounts.mjs";
import { chat, EXPIRED, rejection, setUp, sleep, until } from "./support/harness.mjs";
import { startHttpProxy } from "./support/proxies.mjs";
import { SECRET_PREFIX } from "./support/qwen-server.mjs";

const posix = process.platform === "win32" ? "modes and links are POSIX" : false;
const BOTH = { DEBUG_QWEN_PLUGIN: "1", ENABLE_PLUGIN_REQUEST_LOGGING: "1" };

/** The logs in a home directory. */
function logsOf({ home }) {
  const directory = join(home, ".opencode/logs/qwen-plugin");
  const isThere = () => existsSync(directory) && statSync(directory).isDirectory();
  const names = () => (isThere() ? readdirSync(directory).sort() : []);
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
    directory,
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

/** Waits until nothing is written any more, so that the directory can be removed. */
async function written({ directory, names }) {
  const look = () =>
    JSON.stringify(
      names().map((name) => [name, statSync(join(directory, name), { throwIfNoEntry: false })?.size]),
    );
  let before;
  await until(async () => {
    const same = look() === before;
    before = look();
    if (!same) await sleep(150);
    return same;
  }, "nothing is written any more");
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

test("no log is written by default", async (t) => {
  for (const value of [undefined, "", "0", "off", "false"]) {
    const env = { DEBUG_QWEN_PLUGIN: value, ENABLE_PLUGIN_REQUEST_LOGGING: value };
    const { home, client, server } = await setUp(t, { env, token: EXPIRED });
    await (await chat(client, "hi")).text();
    server.script("chat", ["token_rejected"]);
    await (await chat(client, "hi")).text();
    client.close();
    assert.ok(!existsSync(join(home.home, ".opencode")));
  }
});

test("each switch turns on its own log", async (t) => {
  for (const [name, wanted] of [
    ["DEBUG_QWEN_PLUGIN", /^debug\.log$/],
    ["ENABLE_PLUGIN_REQUEST_LOGGING", /^request-.*\.json$/],
  ]) {
    const { home, client } = await setUp(t, { env: { [name]: "on" } });
    const logs = logsOf(home);
    await (await chat(client, "hi")).text();
    await until(() => logs.names().length > 0, `${name} writes`);
    assert.equal(logs.names().length, 1);
    assert.match(logs.names()[0], wanted);
  }
});

test("a client opens nothing before its first call", async (t) => {
  const { home } = await setUp(t, { env: BOTH });
  assert.ok(!existsSync(join(home.home, ".opencode")));
});

test("a request is logged with its bodies and its duration", async (t) => {
  const { home, client, server } = await setUp(t, { env: BOTH });
  const before = Date.now();
  const headers = {
    "content-type": "application/json",
    "x-session-id": "session-1",
    authorization: "Bearer a-token-of-the-caller",
    cookie: "session=a-cookie-of-the-caller",
    "x-api-key": "sk-a-key-of-the-caller",
  };
  const response = await chat(client, "what is logged?", { max_tokens: 77 }, { headers });
  const body = await response.text();
  const logs = logsOf(home);
  const [record] = await logs.requests(1);
  assert.ok(Math.abs(Date.parse(record.at) - before) < 60_000, record.at);
  assert.ok(Number.isInteger(record.durationMs) && record.durationMs >= 0 && record.durationMs < 60_000);
  assert.ok(record.firstByteMs >= 0 && record.firstByteMs <= record.durationMs);
  const { url, method, model, stream, outcome, account, notes } = record;
  assert.deepEqual(
    { url, method, model, stream, outcome, notes },
    {
      url: `${client.baseUrl}/chat/completions`,
      method: "POST",
      model: "coder-model",
      stream: false,
      outcome: "completed",
      notes: [],
    },
  );
  const { label } = await client.activeAccount();
  assert.equal(account, label);
  assert.deepEqual(
    record.attempts.map(({ account, baseUrl, status, verdict }) => ({ account, baseUrl, status, verdict })),
    [{ account: label, baseUrl: server.apiBaseUrl, status: 200, verdict: "pass" }],
  );
  assert.ok(record.attempts[0].durationMs >= 0);
  assert.deepEqual(record.request.body, server.seen("chat")[0].body, "the body as it was sent");
  assert.equal(record.request.bytes, Buffer.byteLength(server.seen("chat")[0].rawBody));
  assert.deepEqual(record.response.body, JSON.parse(body));
  assert.deepEqual([record.response.status, record.response.bytes], [200, Buffer.byteLength(body)]);
  assert.equal(record.response.headers["content-type"], "application/json");
  assert.ok(logs.text().includes("what is logged?"));
  assertNoSecret(
    logs,
    server.issued,
    "a-token-of-the-caller",
    "a-cookie-of-the-caller",
    "sk-a-key-of-the-caller",
  );
});

test("the log distinguishes attempts of several accounts, a refresh, a switch and a degraded try", async (t) => {
  const { servers, client, home, all, tokens } = await setUpAccounts(t, {
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
  const spent = Object.values(tokens).flatMap(({ access_token, refresh_token }) => [
    access_token,
    refresh_token,
  ]);
  assertNoSecret(
    logs,
    all.flatMap((server) => server.issued),
    spent,
  );
});

test("streams, failures and aborted requests are logged with their end", async (t) => {
  const { home, client, server } = await setUp(t, { env: BOTH, client: { idleTimeoutMs: 400 } });
  const logs = logsOf(home);
  const record = async (count) => (await logs.requests(count)).at(-1);

  const text = await (await chat(client, "SAY 5", { stream: true })).text();
  let last = await record(1);
  assert.deepEqual(
    [last.outcome, last.stream, last.response.bytes],
    ["completed", true, Buffer.byteLength(text)],
  );
  assert.match(last.response.body, /word1.*word5.*\[DONE\]/s);

  server.script("chat", [{ do: "server_error", status: 503 }]);
  await (await chat(client, "hi")).text();
  last = await record(2);
  assert.deepEqual([last.outcome, last.response.status, last.attempts[0].status], ["completed", 503, 503]);

  server.script("chat", ["reset"]);
  await rejection(chat(client, "hi"), "ERR_QWEN_NETWORK");
  last = await record(3);
  assert.deepEqual([last.outcome, last.response, last.attempts[0].status], ["ERR_QWEN_NETWORK", null, null]);

  server.script("chat", ["hang"]);
  await rejection(chat(client, "hi"), "ERR_QWEN_TIMEOUT");
  assert.equal((await record(4)).outcome, "ERR_QWEN_TIMEOUT");

  server.script("chat", [{ do: "cut", after: 2 }]);
  const cut = await chat(client, "SAY 50", { stream: true });
  await assert.rejects(cut.text(), { code: "ERR_QWEN_NETWORK" });
  last = await record(5);
  assert.equal(last.outcome, "ERR_QWEN_NETWORK");
  assert.match(last.response.body, /^data: /);

  const controller = new AbortController();
  server.script("chat", ["hang"]);
  const asked = chat(client, "hi", {}, { signal: controller.signal });
  await server.waitFor("chat", { count: 6 });
  controller.abort();
  await assert.rejects(asked, { name: "AbortError" });
  assert.equal((await record(6)).outcome, "cancelled");

  server.script("chat", ["stall"]);
  const stalled = await chat(client, "SAY 50", { stream: true });
  await stalled.body.cancel();
  assert.equal((await record(7)).outcome, "cancelled");
  assertNoSecret(logs, server.issued);
});

test("a login, a refresh and its failures leave no secret in the logs", async (t) => {
  const { home, client, server } = await setUp(t, {
    env: BOTH,
    token: null,
    server: { interval: 0.05, autoApprove: true, expiresIn: 1 },
  });
  const logs = logsOf(home);
  await client.login({ label: "work", openBrowser: false });
  server.revokeAllAccess();
  await (await chat(client, "hi")).text();
  server.revokeRefresh(home.read().refresh_token);
  server.revokeAllAccess();
  const failed = await chat(client, "hi").catch((error) => error);
  assert.equal(failed.code ?? failed.headers.get("x-qwen-error"), "ERR_QWEN_REFRESH_TOKEN_INVALID");
  await until(() => logs.debug().includes("needs-login"), "it is logged");
  assert.ok(logs.debug().includes("refreshed"));
  assertNoSecret(logs, server.issued);
});

test("a proxy's password is in no log", async (t) => {
  const proxy = await startHttpProxy(t, { credentials: "user:hunter2-of-the-proxy" });
  const { home, client, server } = await setUp(t, { env: { ...BOTH, HTTP_PROXY: proxy.url } });
  await (await chat(client, "hi")).text();
  const wrong = await setUp(t, {
    env: {
      ...BOTH,
      HTTP_PROXY: proxy.url.replace("hunter2-of-the-proxy", "wrong-password-1"),
      HOME: home.home,
    },
  });
  await chat(wrong.client, "hi").catch((error) => error);
  const dead = await setUp(t, {
    env: { ...BOTH, HTTP_PROXY: "http://user:password-to-nowhere@127.0.0.1:9", HOME: home.home },
  });
  await chat(dead.client, "hi").catch((error) => error);
  const logs = logsOf(home);
  await logs.requests(1);
  assertNoSecret(logs, server.issued, "hunter2-of-the-proxy", "wrong-password-1", "password-to-nowhere");
});

/** Obstacles for a log. Each gets the path of the home directory. */
const BLOCKED = {
  "a file in the place of .opencode": (home) => writeFileSync(join(home, ".opencode"), "in the way"),
  "a file in the place of the directory": (home) => {
    mkdirSync(join(home, ".opencode/logs"), { recursive: true });
    writeFileSync(join(home, ".opencode/logs/qwen-plugin"), "in the way");
  },
  "a directory in the place of the debug log": (home) =>
    mkdirSync(join(home, ".opencode/logs/qwen-plugin/debug.log"), { recursive: true }),
  "a link to nowhere": (home) => symlinkSync("/nowhere/at/all", join(home, ".opencode")),
  "a directory that is read-only": (home) => {
    mkdirSync(join(home, ".opencode/logs"), { recursive: true });
    chmodSync(join(home, ".opencode/logs"), 0o500);
  },
  "a device that is full": (home) => {
    mkdirSync(join(home, ".opencode/logs/qwen-plugin"), { recursive: true });
    symlinkSync("/dev/full", join(home, ".opencode/logs/qwen-plugin/debug.log"));
  },
};

for (const [what, block] of Object.entries(BLOCKED)) {
  test(`${what} fails no request`, { skip: posix }, async (t) => {
    const { home, client, server, events } = await setUp(t, { env: BOTH, token: EXPIRED });
    block(home.home);
    for (let turn = 0; turn < 3; turn += 1) {
      assert.equal((await chat(client, "hi")).status, 200);
      assert.match(await (await chat(client, "SAY 3", { stream: true })).text(), /\[DONE\]/);
    }
    client.close();
    assert.equal(server.stats.chats, 6);
    assert.deepEqual(
      events.map(({ type }) => type),
      ["refreshed"],
    );
    await written(logsOf(home));
  });
}

test("nothing is printed, and a process writes its logs before it ends", async (t) => {
  const { home, server, settings } = await setUp(t, { env: BOTH, token: EXPIRED });
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
    await client.login({ signal: AbortSignal.timeout(50), openBrowser: false }).catch(() => {});
    client.close();
  };
  const child = spawn(
    process.execPath,
    ["--input-type=module", "--eval", `await (${program})(${JSON.stringify(settings)})`],
    { cwd: fileURLToPath(new URL("..", import.meta.url)), stdio: ["ignore", "pipe", "pipe"] },
  );
  t.after(() => child.kill("SIGKILL"));
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      printed += text;
    });
  }
  const [code] = await once(child, "close");
  assert.deepEqual([code, printed], [0, ""]);
  const logs = logsOf(home);
  const text = logs.text();
  for (const word of ["turn 0", "turn 4", "attempt"]) assert.ok(text.includes(word), `${word} is not logged`);
  assert.equal(logs.records().length, 5);
  assertNoSecret(logs, server.issued);
});
