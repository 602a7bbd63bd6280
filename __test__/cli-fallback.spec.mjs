import assert from "node:assert/strict";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { NAMES, setUpAccounts } from "./support/accounts.mjs";
import { isRunning, makeFakeCli } from "./support/fake-cli.mjs";
import { chat, qwen, until } from "./support/harness.mjs";

const skip = process.platform === "linux" ? false : "processes are looked at in /proc";

/** Says hello in pieces, as the CLI does. */
const sayHello = ({ say }) =>
  say(
    { type: "system", subtype: "init", session_id: "s", model: "a-model", tools: [], slash_commands: [] },
    { type: "goal_state", goal: null },
    { type: "stream_event", event: { type: "message_start", message: { role: "assistant", content: [] } } },
    {
      type: "stream_event",
      parent_tool_use_id: null,
      event: { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "hello " } },
    },
    {
      type: "stream_event",
      event: { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "there" } },
    },
    {
      type: "assistant",
      message: {
        role: "assistant",
        content: [{ type: "text", text: "hello there" }],
        usage: { input_tokens: 20, output_tokens: 4 },
      },
    },
    {
      type: "result",
      subtype: "success",
      is_error: false,
      result: "hello there",
      usage: { input_tokens: 20, output_tokens: 4, cache_read_input_tokens: 6, total_tokens: 24 },
      permission_denials: [],
    },
  );

/** Accounts that are all out of quota, and a fake CLI on PATH. */
async function setUp(
  t,
  act = sayHello,
  { client, env, quota = true, data, names = ["one"], ...options } = {},
) {
  const set = await setUpAccounts(t, {
    names,
    client: { degrade: false, cliFallback: true, ...client },
    env,
    ...options,
  });
  const fake = makeFakeCli(set.home, act, { data });
  const temporary = join(set.home.home, "tmp");
  mkdirSync(temporary);
  if (quota) for (const name of names) set.servers[name].setQuota(name, 0);
  // A client reads its environment when it is made.
  const events = [];
  const settings = {
    ...set.settings,
    env: { ...set.settings.env, PATH: `${fake.bin}:/usr/bin:/bin`, TMPDIR: temporary, ...env },
  };
  set.client.close();
  const made = qwen.createClient({ ...settings, onEvent: (event) => events.push(event) });
  t.after(() => made.close());
  return { ...set, settings, client: made, events, fake, temporary };
}

const errorOf = async (response) => (await response.json()).error;
const nothingLeft = async ({ temporary, fake }) => {
  await until(() => readdirSync(temporary).length === 0, "the directories are removed");
  for (const { pid } of fake.runs()) assert.ok(!isRunning(pid), `${pid} still runs`);
};

/** The 429 after a failed fallback; its message has the reason. */
async function refusal(set, why, fields) {
  const response = await chat(set.client, "hi", fields);
  assert.equal(response.status, 429);
  assert.equal(response.headers.get("x-qwen-cli-fallback"), null);
  assert.ok(response.headers.get("retry-after") > 0);
  const { message, code } = await errorOf(response);
  assert.equal(code, "insufficient_quota");
  assert.match(message, why);
  assert.match(message, /has used up its|out of quota/);
  assert.deepEqual(
    set.events.filter(({ type }) => type === "cli-fallback"),
    [],
  );
  await nothingLeft(set);
  return message;
}

describe("the qwen CLI as a fallback", { skip, concurrency: 3 }, () => {
  test("its answer is a chat completion with usage, marked as a fallback", async (t) => {
    const set = await setUp(t);
    const response = await chat(set.client, "hi");
    assert.deepEqual([response.status, response.headers.get("x-qwen-cli-fallback")], [200, "1"]);
    assert.equal(response.headers.get("content-type"), "application/json");
    assert.equal(response.headers.get("x-qwen-degraded"), null);
    const { id, object, created, model, choices, usage } = await response.json();
    assert.deepEqual([typeof id, object, model], ["string", "chat.completion", "a-model"]);
    assert.ok(Math.abs(created * 1000 - Date.now()) < 60_000);
    assert.deepEqual(choices[0].message, { role: "assistant", content: "hello there" });
    assert.equal(choices[0].finish_reason, "stop");
    assert.deepEqual(usage, {
      prompt_tokens: 20,
      completion_tokens: 4,
      total_tokens: 24,
      prompt_tokens_details: { cached_tokens: 6 },
    });
    assert.deepEqual(
      set.events.map(({ type }) => type),
      ["exhausted", "cli-fallback"],
    );
    assert.equal(set.fake.runs().length, 1);
    await nothingLeft(set);
  });

  test("it streams to a streaming caller, and the openai SDK reads it", async (t) => {
    const set = await setUp(t);
    const openai = new OpenAI({
      apiKey: "unused",
      baseURL: set.client.baseUrl,
      fetch: set.client.fetch,
      maxRetries: 0,
    });
    const { data: stream, response } = await openai.chat.completions
      .create({
        model: "coder-model",
        messages: [{ role: "user", content: "hi" }],
        stream: true,
        stream_options: { include_usage: true },
      })
      .withResponse();
    assert.equal(response.headers.get("x-qwen-cli-fallback"), "1");
    assert.match(response.headers.get("content-type"), /^text\/event-stream/);
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const pieces = chunks.map(({ choices }) => choices[0]?.delta?.content).filter(Boolean);
    assert.deepEqual(pieces, ["hello ", "there"]);
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    assert.deepEqual(chunks.map(({ choices }) => choices[0]?.finish_reason).filter(Boolean), ["stop"]);
    assert.equal(chunks.at(-1).usage.total_tokens, 24);
    assert.equal(new Set(chunks.map(({ id }) => id)).size, 1);
    await nothingLeft(set);
  });

  test("a script that ends without reading causes no crash", async (t) => {
    const set = await setUp(t);
    writeFileSync(
      set.fake.path,
      `#!/bin/sh\nexec 0<&-\nprintf '{"type":"result","is_error":false,"result":"blind"}\\n'\n`,
    );
    const messages = [{ role: "user", content: "x".repeat(400_000) }];
    const response = await chat(set.client, "", { messages });
    assert.equal((await response.json()).choices[0].message.content, "blind");
  });

  for (const stream of [false, true]) {
    test(`a failure is reported in the 429${stream ? " of a streaming caller" : ""}`, async (t) => {
      const act = () => {
        process.stderr.write("Error: something broke\n");
        process.exit(1);
      };
      await refusal(await setUp(t, act), /something broke/, { stream });
    });
  }

  /** Leaves a child behind, reports its pid, and does not end. */
  const hang = ({ note, say, data }) => {
    const { spawn } = require("node:child_process");
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => {});
    const script = "trap '' TERM INT HUP; while :; do sleep 1; done";
    const child = spawn("/bin/sh", ["-c", script], { stdio: "inherit" });
    if (data.says) {
      say({
        type: "stream_event",
        event: { type: "content_block_delta", delta: { type: "text_delta", text: "one" } },
      });
    }
    note("child", child.pid);
    setInterval(() => {}, 1000);
  };
  for (const says of [false, true]) {
    test(`an abort ${says ? "during a stream" : "before the first word"} ends a CLI that ignores signals`, async (t) => {
      const set = await setUp(t, hang, { data: { says } });
      const controller = new AbortController();
      const asked = chat(set.client, "hi", { stream: true }, { signal: controller.signal });
      asked.catch(() => {});
      const child = await until(() => set.fake.noted("child"), "the CLI runs");
      const [{ pid }] = set.fake.runs();
      t.after(() => [pid, child].filter(isRunning).forEach((left) => process.kill(left, "SIGKILL")));
      assert.ok(isRunning(pid) && isRunning(child));
      const response = says && (await asked);
      controller.abort();
      await assert.rejects(response ? response.text() : asked, { name: "AbortError" });
      await until(() => !isRunning(pid) && !isRunning(child), "both have ended");
      await nothingLeft(set);
    });
  }

  test("a stream that is cancelled, and a client that is closed, end the CLI", async (t) => {
    for (const end of ["cancel", "close"]) {
      const set = await setUp(t, hang, { data: { says: true } });
      const response = await chat(set.client, "hi", { stream: true });
      const [{ pid }] = set.fake.runs();
      const child = await until(() => set.fake.noted("child"), "the CLI has a child");
      t.after(() => [pid, child].filter(isRunning).forEach((left) => process.kill(left, "SIGKILL")));
      if (end === "cancel") await response.body.cancel();
      else set.client.close();
      await until(() => !isRunning(pid) && !isRunning(child), `${end}: both have ended`);
      await nothingLeft(set);
    }
  });

  test("it is off by default", async (t) => {
    for (const [client, env, runs] of [
      [{ cliFallback: undefined }, {}, 0],
      [{ cliFallback: undefined }, { OPENCODE_QWEN_ENABLE_CLI_FALLBACK: "0" }, 0],
      [{ cliFallback: undefined }, { OPENCODE_QWEN_ENABLE_CLI_FALLBACK: "perhaps" }, 0],
      [{ cliFallback: false }, { OPENCODE_QWEN_ENABLE_CLI_FALLBACK: "1" }, 0],
      [{ cliFallback: undefined }, { OPENCODE_QWEN_ENABLE_CLI_FALLBACK: "1" }, 1],
    ]) {
      const set = await setUp(t, sayHello, { client, env });
      const response = await chat(set.client, "hi");
      assert.equal(response.status, runs ? 200 : 429);
      assert.equal(set.fake.runs().length, runs);
    }
  });

  test("it comes after all accounts and the degraded try, and serves only chats", async (t) => {
    const set = await setUp(t, sayHello, { names: NAMES, client: { degrade: true }, quota: false });
    assert.equal((await chat(set.client, "hi")).headers.get("x-qwen-cli-fallback"), null);
    for (const server of set.all) server.script("chat", [{ do: "quota", times: 1 }]);
    assert.equal((await chat(set.client, "hi")).headers.get("x-qwen-degraded"), "1");
    assert.equal(set.fake.runs().length, 0);
    const models = await set.client.fetch(`${set.client.baseUrl}/models`);
    assert.equal(models.status, 429);
    assert.equal(set.fake.runs().length, 0);
    const { length } = set.all.flatMap((server) => server.seen("chat"));
    const response = await chat(set.client, "hi");
    assert.equal(response.headers.get("x-qwen-cli-fallback"), "1");
    assert.equal(set.fake.runs().length, 1);
    assert.equal(set.all.flatMap((server) => server.seen("chat")).length, length);
  });

  test("many requests at once are all answered, and leave no process", async (t) => {
    const set = await setUp(t);
    const responses = await Promise.all(Array.from({ length: 6 }, () => chat(set.client, "hi")));
    for (const response of responses) {
      assert.equal((await response.json()).choices[0].message.content, "hello there");
    }
    assert.equal(set.fake.runs().length, 6);
    await nothingLeft(set);
  });
});
