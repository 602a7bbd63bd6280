import assert from "node:assert/strict";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { NAMES, setUpAccounts } from "./support/accounts.mjs";
import { isRunning, makeFakeCli } from "./support/fake-cli.mjs";
import { chat, qwen, until } from "./support/harness.mjs";

const skip = process.platform === "linux" ? false : "processes are looked at in /proc";

/** Says hello in pieces, as the CLI does. */
const sayHello = ({ say }) => {
  const delta = (text) => {
    const event = { type: "content_block_delta", delta: { type: "text_delta", text } };
    return { type: "stream_event", event };
  };
  const usage = { input_tokens: 20, output_tokens: 4, cache_read_input_tokens: 6, total_tokens: 24 };
  say({ type: "system", subtype: "init", model: "a-model", tools: [] }, delta("hello "), delta("there"), {
    type: "result",
    is_error: false,
    result: "hello there",
    usage,
  });
};

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
  const fake = makeFakeCli(set.home, act, data);
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
  return { ...set, client: made, events, fake, temporary };
}

const nothingLeft = async ({ temporary, fake }) => {
  await until(() => readdirSync(temporary).length === 0, "the directories are removed");
  for (const { pid } of fake.runs()) assert.ok(!isRunning(pid), `${pid} still runs`);
};

describe("the qwen CLI as a fallback", { skip, concurrency: 3 }, () => {
  test("it streams to the openai SDK, marked as a fallback, and is reported", async (t) => {
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
    assert.deepEqual(
      set.events.map(({ type }) => type),
      ["exhausted", "cli-fallback"],
    );
    const [{ month }] = await set.client.usage();
    assert.equal(month.requests, 0, "it counts for no account");
    await nothingLeft(set);
  });

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
  const abort = ({ controller }) => controller.abort();
  for (const [name, says, end, isAbort = false] of [
    ["an abort before the first word", false, abort, true],
    ["an abort during a stream", true, abort, true],
    ["a stream that is cancelled", true, ({ response }) => response.body.cancel()],
    ["a client that is closed", true, ({ client }) => client.close()],
  ]) {
    test(`${name} ends a CLI that ignores signals`, async (t) => {
      const set = await setUp(t, hang, { data: { says } });
      const controller = new AbortController();
      const asked = chat(set.client, "hi", { stream: true }, { signal: controller.signal });
      asked.catch(() => {});
      const child = await until(() => set.fake.noted("child"), "the CLI runs");
      const [{ pid }] = set.fake.runs();
      t.after(() => [pid, child].filter(isRunning).forEach((left) => process.kill(left, "SIGKILL")));
      assert.ok(isRunning(pid) && isRunning(child));
      const response = says && (await asked);
      await end({ controller, response, client: set.client });
      if (isAbort) await assert.rejects(response ? response.text() : asked, { name: "AbortError" });
      await until(() => !isRunning(pid) && !isRunning(child), "both have ended");
      await nothingLeft(set);
    });
  }

  test("it comes after all accounts and the shorter request, and serves only chats", async (t) => {
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
});
