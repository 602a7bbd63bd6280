// The gateway in Node: its handle, its command, and several kinds of clients.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runProgram, startProgram } from "./support/command-line.mjs";
import { rejection, setUp, sleep, temporaryHome } from "./support/harness.mjs";

async function openGateway(t, options) {
  const set = await setUp(t, options);
  const gateway = await set.client.serve();
  t.after(() => gateway.close());
  return { ...set, gateway };
}

function ask({ url, key }, fields = {}, init = {}) {
  return fetch(`${url}/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({
      model: "coder-model",
      messages: [{ role: "user", content: "hi" }],
      ...fields,
    }),
    ...init,
  });
}

/** Runs an external program. Returns `undefined` if it is not installed. */
async function runTool(command, args, { input, env } = {}) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "inherit"] });
  const closed = once(child, "close").catch(() => undefined);
  child.stdin.on("error", () => {}).end(input);
  const chunks = [];
  child.stdout.on("data", (chunk) => chunks.push(chunk));
  return (await closed) && Buffer.concat(chunks);
}

test("answers are the same as those of client.fetch, streamed and whole", async (t) => {
  const { server, client, gateway } = await openGateway(t);
  for (const stream of [false, true]) {
    const through = await ask(gateway, { stream });
    assert.equal(through.status, 200);
    assert.equal(through.headers.get("content-type"), stream ? "text/event-stream" : "application/json");
    assert.ok((await through.text()).length > 50);
  }
  const [whole] = server.seen("chat");
  assert.ok(!whole.headers.authorization.includes(gateway.key));
  assert.equal(whole.headers["x-dashscope-authtype"], "qwen-oauth");
  const models = await fetch(`${gateway.url}/models`, {
    headers: { authorization: `Bearer ${gateway.key}` },
  });
  const { object, data } = await models.json();
  assert.equal(object, "list");
  assert.deepEqual(data.map(({ id }) => id).sort(), ["coder-model", "vision-model"]);
  assert.equal(server.seen("models").length, 0, client.baseUrl);
});

test("bytes of any kind pass unchanged, through clients in three languages", async (t) => {
  const { server, gateway } = await openGateway(t);
  const expected = Buffer.from({ length: 300_000 }, (_, index) => (index * 151 + 128) % 256);
  const base64 = expected.toString("base64");
  const step = { do: "binary", bytes: expected.length };
  const url = `${gateway.url}/chat/completions`;
  const body = JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "hi" }] });

  server.script("chat", [step]);
  assert.equal(Buffer.from(await (await ask(gateway)).arrayBuffer()).toString("base64"), base64);

  server.script("chat", [step]);
  const input = `header = "authorization: Bearer ${gateway.key}"\nheader = "content-type: application/json"`;
  const file = join(temporaryHome(t).home, "body.json");
  writeFileSync(file, body);
  const curl = ["-sS", "-N", "--fail", "-K", "-", "--data-binary", `@${file}`, url];
  assert.equal((await runTool("curl", curl, { input })).toString("base64"), base64);

  server.script("chat", [step]);
  const script = `
import base64, http.client, os
connection = http.client.HTTPConnection("localhost", ${new URL(gateway.url).port})
headers = {"Authorization": "Bearer " + os.environ["KEY"], "Content-Type": "application/json"}
connection.request("POST", "/v1/chat/completions", os.environ["BODY"], headers)
print(base64.b64encode(connection.getresponse().read()).decode())`;
  const env = { KEY: gateway.key, BODY: body };
  const byPython = await runTool("python3", ["-c", script], { env });
  if (byPython !== undefined) assert.equal(String(byPython).trim(), base64);
});

test("two hundred streams at once are answered", async (t) => {
  const { gateway } = await openGateway(t);
  const answers = await Promise.all(Array.from({ length: 200 }, () => ask(gateway, { stream: true })));
  const texts = await Promise.all(answers.map((answer) => answer.text()));
  assert.ok(texts.every((text) => text.endsWith("data: [DONE]\n\n")));
});

test("a used-up quota, a missing login and an unreachable server are reported in the API's form", async (t) => {
  const { server, gateway } = await openGateway(t);
  server.script("chat", [{ do: "quota", times: Infinity }]);
  const refused = await ask(gateway);
  assert.equal(refused.status, 429);
  assert.equal(refused.headers.get("x-qwen-error"), "ERR_QWEN_QUOTA_EXHAUSTED");
  assert.ok(Number(refused.headers.get("retry-after")) > 0);
  assert.equal(refused.headers.get("x-should-retry"), null);

  const { gateway: empty } = await openGateway(t, { token: null });
  const answer = await ask(empty);
  assert.equal(answer.status, 401);
  assert.equal((await answer.json()).error.code, "ERR_QWEN_NOT_LOGGED_IN");

  const lost = await openGateway(t);
  await lost.server.close();
  const unreachable = await ask(lost.gateway);
  assert.equal(unreachable.status, 502);
  assert.equal(unreachable.headers.get("x-qwen-error"), "ERR_QWEN_NETWORK");
});

test("wrong arguments are refused, and a closed client closes its gateways", async (t) => {
  const { client } = await openGateway(t);
  for (const options of [
    { port: -1 },
    { port: 65_536 },
    { port: 1.5 },
    { port: "1" },
    { key: "short" },
    { key: 1 },
  ]) {
    await rejection(client.serve(options), "ERR_QWEN_INVALID_ARGUMENT");
  }
  const key = "k".repeat(32);
  const second = await client.serve({ key });
  assert.equal(second.key, key);
  client.close();
  await assert.rejects(fetch(`${second.url}/models`));
  await second.close();
  await rejection(client.serve(), "ERR_QWEN_INVALID_ARGUMENT");
});

test("an open gateway keeps the process alive, and a closed one does not", async (t) => {
  const home = temporaryHome(t);
  const script = `
    const { createClient } = require(${JSON.stringify(fileURLToPath(new URL("../index.js", import.meta.url)))});
    createClient().serve().then((gateway) => setTimeout(() => gateway.close().then(() => console.log("closed")), 200));`;
  const output = await runTool(process.execPath, ["-e", script], { env: home.env });
  assert.equal(String(output), "closed\n");
});

/** Starts the command for this login. */
function serveCommand(t, { server, settings }, ...args) {
  const env = { ...settings.env, PATH: process.env.PATH, OPENCODE_QWEN_OAUTH_BASE_URL: server.url };
  const program = startProgram({ env }, ["serve", ...args]);
  t.after(() => program.child.kill("SIGKILL"));
  /** The lines so far, once there are that many. */
  const lines = async (count) => {
    await program.printed(new RegExp(`(?:.*\n){${count}}`));
    return program.output.stdout.trimEnd().split("\n");
  };
  return { ...program, lines };
}

test("serve --json prints a line at the start, and one for each request", async (t) => {
  const { child, lines, ended } = serveCommand(t, await setUp(t), "--json");
  const { url, key, accounts } = JSON.parse((await lines(1))[0]);
  assert.equal(accounts.length, 1);
  await (await ask({ url, key }, { stream: true, stream_options: { include_usage: true } })).text();
  await (await ask({ url, key: "wrong" })).text();
  const [asked, refused] = (await lines(3)).slice(1).map((line) => JSON.parse(line));
  assert.equal(
    Object.keys(asked).join(" "),
    "at method path model account status durationMs inputTokens outputTokens",
  );
  assert.deepEqual([asked.method, asked.path, asked.model], ["POST", "/v1/chat/completions", "coder-model"]);
  assert.deepEqual([asked.account, asked.status], [accounts[0].id, 200]);
  assert.ok(asked.inputTokens > 0 && asked.outputTokens > 0);
  assert.deepEqual([refused.status, refused.model, refused.account], [401, null, null]);
  assert.ok(!readFileSync(`/proc/${child.pid}/cmdline`, "utf8").includes(key));
  child.kill("SIGTERM");
  const { code, stderr } = await ended;
  assert.ok([0, 143].includes(code), `${code} ${stderr}`);
});

test("serve --print-env works with a key file, and Ctrl-C cuts an open stream", async (t) => {
  const set = await setUp(t);
  const file = join(set.home.home, "gateway.key");
  const args = ["--print-env", "--key-file", file];
  const first = serveCommand(t, set, ...args);
  const variables = await first.lines(2);
  const [url, key] = variables.map((line) => /^OPENAI_(?:BASE_URL|API_KEY)=(.*)$/.exec(line)[1]);
  assert.equal(readFileSync(file, "utf8").trim(), key);
  if (process.platform !== "win32") assert.equal(statSync(file).mode & 0o777, 0o600);
  set.server.script("chat", [{ do: "stall", after: 3 }]);
  const answer = await ask({ url, key }, { stream: true }, { signal: AbortSignal.timeout(20_000) });
  const reader = answer.body.getReader();
  await reader.read();
  const started = Date.now();
  first.child.kill("SIGINT");
  const { code, stderr } = await first.ended;
  assert.ok([0, 130].includes(code), `${code} ${stderr}`);
  assert.ok(Date.now() - started < 10_000);
  await assert.rejects(async () => {
    while (!(await reader.read()).done);
  });
  const again = serveCommand(t, set, ...args);
  assert.equal((await again.lines(2))[1], `OPENAI_API_KEY=${key}`);
});

test("serve refuses key files that others can read, and invalid ports", async (t) => {
  const home = temporaryHome(t);
  const file = (name, content, mode) => {
    const path = join(home.home, name);
    writeFileSync(path, content, { mode });
    chmodSync(path, mode);
    return path;
  };
  mkdirSync(join(home.home, "directory"));
  const env = { ...home.env, PATH: process.env.PATH };
  const good = "k".repeat(40);
  const cases = [
    file("empty", "", 0o600),
    file("short", "k".repeat(31), 0o600),
    join(home.home, "directory"),
  ];
  if (process.platform !== "win32") cases.push(file("open", good, 0o644), file("group", good, 0o640));
  for (const path of cases) {
    const { code, stderr } = await runProgram({ env, secrets: [good] }, ["serve", "--key-file", path]);
    assert.equal(code, 1, path);
    assert.ok(stderr.includes(path), stderr);
  }
  for (const port of ["0", "65536", "x", "-1"]) {
    assert.equal((await runProgram({ env }, ["serve", `--port=${port}`])).code, 2, port);
  }
  const taken = createServer().listen(0, "::1");
  await once(taken, "listening");
  t.after(() => taken.close());
  const { port } = taken.address();
  const refused = await runProgram({ env }, ["serve", "--port", String(port), "--json"]);
  assert.equal(refused.code, 1);
  assert.equal(JSON.parse(refused.stdout).error.code, "ERR_QWEN_PORT_IN_USE");
  assert.match(refused.stderr, new RegExp(String(port)));
});

test("an idle gateway uses no processor time", async (t) => {
  const { gateway } = await openGateway(t);
  await (await ask(gateway)).text();
  await sleep(300);
  const before = process.cpuUsage();
  await sleep(1000);
  const { user, system } = process.cpuUsage(before);
  assert.ok(user + system < 200_000, `${user + system} us`);
});
