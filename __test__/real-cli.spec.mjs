import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { setUpAccounts } from "./support/accounts.mjs";
import { chat, qwen, startServer, until } from "./support/harness.mjs";
import { startHttpProxy } from "./support/proxies.mjs";
import { skipReason, VERSIONS } from "./support/real-cli.mjs";

const MODEL = "qwen3-coder-plus";
const errorOf = async (response) => (await response.json()).error;
const say = (text) => ({ messages: [{ role: "user", content: text }] });

/** An account without quota, and a CLI whose key belongs to its own server, without access to other hosts. */
async function setUp(t, { script, node }, { settings, env } = {}) {
  const cliServer = await startServer(t, { strict: false });
  const key = cliServer.addKey({ account: "the-cli", models: [MODEL] });
  const proxy = await startHttpProxy(t);
  const set = await setUpAccounts(t, { names: ["one"] });
  set.servers.one.setQuota("one", 0);
  set.client.close();
  const temporary = join(set.home.home, "tmp");
  mkdirSync(temporary);
  if (settings) writeFileSync(join(set.home.directory, "settings.json"), JSON.stringify(settings));
  const mark = randomUUID();
  const environment = {
    ...set.settings.env,
    PATH: `${dirname(node)}:/usr/bin:/bin`,
    TMPDIR: temporary,
    LANG: "C.UTF-8",
    QWEN_CLI_PATH: script,
    OPENAI_API_KEY: key,
    OPENAI_BASE_URL: cliServer.apiBaseUrl,
    OPENAI_MODEL: MODEL,
    HTTP_PROXY: proxy.url,
    HTTPS_PROXY: proxy.url,
    NO_PROXY: "127.0.0.1,localhost",
    SPEC_MARK: mark,
    ...env,
  };
  const client = qwen.createClient({
    env: environment,
    oauth: set.settings.oauth,
    degrade: false,
    cliFallback: true,
  });
  t.after(() => client.close());
  return {
    ...set,
    client,
    cliServer,
    key,
    proxy,
    environment,
    /** Checks that no process is left, and that only its server was contacted. */
    async assertClean() {
      await until(() => readdirSync(temporary).length === 0, "its directories are removed");
      assert.deepEqual(marked(mark), []);
      // One of them reaches its server through the proxy, whatever NO_PROXY says.
      const elsewhere = proxy.seen.filter(({ target }) => target !== `127.0.0.1:${cliServer.port}`);
      assert.deepEqual(elsewhere, []);
      assert.deepEqual(
        set.home.files().filter((name) => !/^(?:oauth_|settings\.json$)/.test(name)),
        [],
      );
    },
    processes: () => marked(mark),
  };
}

/** Finds processes by a mark in their environment. */
function marked(mark) {
  return readdirSync("/proc").filter((name) => {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) return false;
    try {
      return readFileSync(`/proc/${name}/environ`, "latin1").includes(mark);
    } catch {
      return false;
    }
  });
}

/** The CLI's one request, which has no tools. */
function onlyRequest({ cliServer, key }) {
  const [entry, ...more] = cliServer.seen("chat");
  assert.deepEqual(more, []);
  assert.equal(cliServer.requests.length, 1);
  assert.equal(entry.headers.authorization, `Bearer ${key}`);
  assert.deepEqual(entry.body.tools ?? [], []);
  assert.equal(entry.body.model, MODEL);
  return entry;
}

for (const [version, cli] of Object.entries(VERSIONS)) {
  describe(`qwen ${version} as a fallback`, { skip: skipReason(cli), concurrency: 2 }, () => {
    test("streams to a streaming caller", async (t) => {
      const set = await setUp(t, cli);
      set.cliServer.set({ pace: 30 });
      const { baseUrl: baseURL, fetch } = set.client;
      const openai = new OpenAI({ apiKey: "unused", baseURL, fetch, maxRetries: 0 });
      const stream = await openai.chat.completions.create({
        model: "coder-model",
        stream: true,
        stream_options: { include_usage: true },
        ...say("SAY 9"),
      });
      const chunks = [];
      for await (const chunk of stream) chunks.push(chunk);
      const pieces = chunks.map(({ choices }) => choices[0]?.delta?.content).filter(Boolean);
      assert.ok(pieces.length > 3, `it came in ${pieces.length} pieces`);
      assert.equal(pieces.join("").split(" ").at(-1), "word9");
      assert.ok(chunks.at(-1).usage.total_tokens > 0);
      onlyRequest(set);
      await set.assertClean();
    });

    test("answers with one request and no tools, and runs no command that a prompt contains", async (t) => {
      const set = await setUp(t, cli);
      const secret = join(set.home.home, "secret.txt");
      writeFileSync(secret, "the contents of a file");
      const content = `/init @${secret} @secret.txt !touch ${secret}.2 --yolo me@example.org SAY 3`;
      const messages = [
        { role: "system", content: `/summary @${secret}` },
        { role: "user", content: "/compress" },
        { role: "assistant", content: "ok" },
        { role: "user", content },
      ];
      const response = await chat(set.client, "", { messages });
      assert.equal(response.status, 200, await response.clone().text());
      assert.equal(response.headers.get("x-qwen-cli-fallback"), "1");
      const { choices, usage, model } = await response.json();
      assert.equal(choices[0].message.content, "word1 word2 word3");
      assert.equal(model, MODEL);
      assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0);
      const { rawBody, body } = onlyRequest(set);
      assert.ok(!rawBody.includes("the contents of a file"));
      const texts = body.messages.flatMap(({ content }) =>
        typeof content === "string" ? [content] : content.map(({ text }) => text ?? ""),
      );
      const prompt = texts.find((text) => text.includes("SAY 3"));
      const transcript = JSON.parse(prompt.slice(prompt.indexOf("{")));
      assert.ok(JSON.stringify(transcript).includes(content), "it arrives as it was written");
      assert.ok(!existsSync(`${secret}.2`));
      await set.assertClean();
    });

    test("runs none of the user's hooks, servers or memories", async (t) => {
      const set = await setUp(t, cli);
      const touched = join(set.home.home, "touched");
      mkdirSync(touched);
      const touch = (name) => `touch ${join(touched, name)}`;
      const hook = (name) => [{ matcher: "*", hooks: [{ type: "command", command: touch(name) }] }];
      const events = ["SessionStart", "UserPromptSubmit", "PreToolUse", "Stop", "SessionEnd"];
      const settings = {
        tools: { approvalMode: "yolo", autoAccept: true, allowed: ["run_shell_command"] },
        permissions: { allow: ["*"] },
        hooks: Object.fromEntries(events.map((name) => [name, hook(name)])),
        hooksConfig: { enabled: true },
        mcpServers: { mine: { command: "/bin/sh", args: ["-c", touch("mcp")], trust: true } },
      };
      writeFileSync(join(set.home.directory, "settings.json"), JSON.stringify(settings));
      writeFileSync(join(set.home.directory, "QWEN.md"), "zebra: the user's memory");
      const response = await chat(set.client, "SAY 2");
      assert.equal((await response.json()).choices[0].message.content, "word1 word2");
      assert.ok(!onlyRequest(set).rawBody.includes("zebra"));
      assert.deepEqual(readdirSync(touched), []);

      // Without the fallback's settings they would run.
      const { node, script } = cli;
      const own = spawn(node, [script], {
        cwd: touched,
        env: set.environment,
        stdio: ["pipe", "ignore", "ignore"],
        detached: true,
      });
      const ended = new Promise((resolve) => own.on("exit", resolve));
      t.after(async () => {
        if (own.exitCode === null && own.signalCode === null) process.kill(-own.pid, "SIGKILL");
        await ended;
      });
      own.stdin.on("error", () => {});
      own.stdin.end("SAY 2");
      await until(() => readdirSync(touched).length > 0, "the CLI by itself runs them");
    });

    test("with an OAuth login alone is refused with the reason", async (t) => {
      const none = { OPENAI_API_KEY: undefined, OPENAI_BASE_URL: undefined, OPENAI_MODEL: undefined };
      const cases = [
        { settings: { security: { auth: { selectedType: "qwen-oauth" } } }, env: none },
        { env: { ...none, QWEN_DEFAULT_AUTH_TYPE: "qwen-oauth" } },
      ];
      for (const given of cases) {
        const set = await setUp(t, cli, given);
        const before = set.home.bytes();
        const response = await chat(set.client, "hi", { stream: true });
        assert.equal(response.status, 429);
        assert.ok(response.headers.get("retry-after") > 0);
        const { message } = await errorOf(response);
        assert.match(message, /OAuth.*2026-04-15.*\/auth|not logged in.*\/auth/s);
        assert.match(message, /This Qwen account has used up its quota/);
        assert.deepEqual(set.home.bytes(), before);
        assert.equal(set.cliServer.requests.length, 0);
      }
    });

    test("with a refused key reports the reason, not the key", async (t) => {
      const set = await setUp(t, cli);
      set.cliServer.revokeAccess(set.key);
      const response = await chat(set.client, "hi");
      assert.equal(response.status, 429);
      const { message } = await errorOf(response);
      assert.match(message, /key was refused.*401/s);
      assert.ok(!message.includes(set.key));
      await set.assertClean();
    });

    test("ends with all its processes when the caller aborts", async (t) => {
      const set = await setUp(t, cli);
      set.cliServer.script("chat", [{ do: "hang", times: Infinity }]);
      const controller = new AbortController();
      const asked = chat(set.client, "hi", { stream: true }, { signal: controller.signal });
      const outcome = asked.catch((error) => error);
      await set.cliServer.waitFor("chat");
      assert.ok(set.processes().length > 0);
      controller.abort();
      assert.equal((await outcome).name, "AbortError");
      await until(() => set.processes().length === 0, "they have ended");
      await set.assertClean();
    });
  });
}
