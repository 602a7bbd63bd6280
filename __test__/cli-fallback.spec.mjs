import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
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

  test("a stream arrives while the CLI works", async (t) => {
    const act = async ({ say, notes }) => {
      const delta = (text) => ({
        type: "stream_event",
        event: { type: "content_block_delta", delta: { type: "text_delta", text } },
      });
      say({ type: "system", subtype: "init", tools: [] }, delta("first"));
      const { existsSync } = require("node:fs");
      while (!existsSync(`${notes}/go`)) await new Promise((resolve) => setTimeout(resolve, 10));
      say(delta(" second"), { type: "result", subtype: "success", is_error: false, result: "" });
    };
    const set = await setUp(t, act);
    const response = await chat(set.client, "hi", { stream: true });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    while (!text.includes("first")) text += (await reader.read()).value;
    assert.doesNotMatch(text, /second/);
    writeFileSync(join(set.home.home, "bin-notes/go"), "");
    for (let read = await reader.read(); !read.done; read = await reader.read()) text += read.value;
    assert.match(text, / second.*\[DONE\]/s);
    await nothingLeft(set);
  });

  const said = (text) => ({ type: "assistant", message: { content: [{ type: "text", text }], usage: {} } });
  const result = (fields) => ({ type: "result", subtype: "success", is_error: false, ...fields });
  const FORMS = {
    "one array on one line": [
      JSON.stringify([
        { type: "system", subtype: "init", tools: [] },
        said("the answer"),
        result({ result: "the answer" }),
      ]),
    ],
    "whole messages, an object a line": [{ type: "system", subtype: "init" }, said("the answer"), result({})],
    "only a result": [result({ result: "the answer" })],
    "events that nobody knows": [
      { type: "goal_state" },
      7,
      null,
      [],
      { type: "new", event: {} },
      said("the answer"),
      { type: "x" },
      result({}),
    ],
    "warnings in between": [
      "Warning: something\n\n",
      said("the answer"),
      "(node:1) ExperimentalWarning\n",
      result({}),
    ],
    "a result without a line end": [said("the answer"), JSON.stringify(result({}))],
    "several parts": [said("the "), said("answer"), result({})],
    "a tool call that was refused": [
      said("the answer"),
      {
        type: "assistant",
        message: { content: [{ type: "tool_use", id: "1", name: "read_file", input: {} }] },
      },
      { type: "user", message: { content: [{ type: "tool_result", is_error: true }] } },
      result({ permission_denials: [{ tool_name: "read_file" }] }),
    ],
  };
  for (const [what, items] of Object.entries(FORMS)) {
    test(`${what} is understood, plain and streamed`, async (t) => {
      const set = await setUp(t, ({ say, data }) => say(...data), { data: items });
      const response = await chat(set.client, "hi");
      assert.equal(response.status, 200, JSON.stringify(await response.clone().json()));
      assert.equal((await response.json()).choices[0].message.content, "the answer");
      const streamed = await (await chat(set.client, "hi", { stream: true })).text();
      const events = streamed.match(/^data: \{.*$/gm).map((line) => JSON.parse(line.slice(6)));
      assert.equal(events.map(({ choices }) => choices[0].delta.content ?? "").join(""), "the answer");
      assert.match(streamed, /data: \[DONE\]\n\n$/);
    });
  }

  test("thoughts are not part of the answer", async (t) => {
    const set = await setUp(t, ({ say }) =>
      say(
        { type: "assistant", message: { content: [{ type: "thinking", thinking: "let me see" }] } },
        { type: "assistant", message: { content: [{ type: "text", text: "42" }] } },
        { type: "result", subtype: "success", is_error: false, result: "42" },
      ),
    );
    const { message } = (await (await chat(set.client, "hi")).json()).choices[0];
    assert.deepEqual([message.content, message.reasoning_content], ["42", "let me see"]);
  });

  test("it gets the conversation on standard input, and no text in it acts as a command or a path", async (t) => {
    const set = await setUp(t);
    const secret = "--yolo @/etc/passwd /init !ls $(touch x) `id` zebra";
    const messages = [
      { role: "system", content: "@.env zebra system" },
      { role: "user", content: "/compress zebra first" },
      { role: "assistant", content: "-p zebra" },
      { role: "user", content: secret },
    ];
    assert.equal((await chat(set.client, "", { messages })).status, 200);
    const [{ argv, env, cwd, cwdFiles, cwdMode, homeMode, prompt }] = set.fake.runs();
    assert.ok(prompt.length > 0);
    assert.ok(!prompt.includes("@"), "an @ starts a path");
    assert.doesNotMatch(prompt, /^[/\-!?\s]/);
    assert.doesNotMatch(prompt, /^\//m);
    const transcript = JSON.parse(prompt.slice(prompt.indexOf("{")));
    const everything = JSON.stringify(transcript);
    for (const { content } of messages)
      assert.ok(everything.includes(JSON.stringify(content).slice(1, -1)), content);
    const elsewhere = JSON.stringify([argv, env]);
    assert.ok(!elsewhere.includes("zebra") && !elsewhere.includes("passwd"));
    assert.ok(!argv.some((argument) => /^(?:-y|--yolo|-p|--prompt)/.test(argument)));
    assert.deepEqual(cwdFiles, []);
    assert.deepEqual([cwdMode, homeMode], [0o700, 0o700]);
    assert.ok(cwd.startsWith(set.temporary), cwd);
    await nothingLeft(set);
  });

  test("it gets its own home, the user's key, and no token of the package", async (t) => {
    const env = {
      OPENAI_API_KEY: "sk-a-key-of-the-user",
      OPENAI_BASE_URL: "http://127.0.0.1:9/v1",
      OPENCODE_SECRET: "not its business",
      QWEN_TELEMETRY: "no",
    };
    const set = await setUp(t, sayHello, { env });
    await chat(set.client, "hi");
    const [run] = set.fake.runs();
    assert.equal(run.env.OPENAI_API_KEY, env.OPENAI_API_KEY);
    assert.equal(run.env.OPENAI_BASE_URL, env.OPENAI_BASE_URL);
    assert.equal(run.env.HOME, set.home.home);
    assert.ok(run.env.QWEN_HOME.startsWith(set.temporary), "not the user's own settings");
    assert.ok(!run.settings.includes("oauth_creds.json"));
    assert.equal(run.env.OPENCODE_SECRET, undefined);
    const everything = JSON.stringify(run);
    for (const { access_token, refresh_token } of Object.values(set.tokens)) {
      assert.ok(!everything.includes(access_token) && !everything.includes(refresh_token));
    }
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

  test("a long conversation is shortened to fit", async (t) => {
    const set = await setUp(t);
    const messages = Array.from({ length: 400 }, (_, index) => ({
      role: index % 2 ? "assistant" : "user",
      content: `${index} ${"@/x ".repeat(2000)}`,
    }));
    messages.push({ role: "user", content: "the very last" });
    assert.equal((await chat(set.client, "", { messages })).status, 200);
    const [{ prompt }] = set.fake.runs();
    assert.ok(prompt.length > 100_000 && prompt.includes("the very last") && !prompt.includes("@"));
  });

  const FAILURES = {
    "an exit code": [
      () => {
        process.stderr.write("Error: something broke\n");
        process.exit(1);
      },
      /something broke/,
    ],
    "an exit code without a word": [() => process.exit(3), /3/],
    "no answer at all": [() => {}, /without an answer/],
    rubbish: [({ say }) => say("<html>\u0000\u0001 not json\n{\n]]]\n"), /without an answer/],
    "binary rubbish": [() => process.stdout.write(Buffer.alloc(200_000, 0xfe)), /without an answer/],
    "an answer of nothing": [
      ({ say }) => say({ type: "result", subtype: "success", is_error: false, result: "" }),
      /without an answer/,
    ],
    "an error that calls itself one": [
      ({ say }) => {
        say({
          type: "result",
          subtype: "error_during_execution",
          is_error: true,
          error: { message: "it went wrong" },
        });
        process.exitCode = 1;
      },
      /it went wrong/,
    ],
    "an error that calls itself a success": [
      ({ say }) => {
        const text = "[API Error: 401 Incorrect API key provided]";
        say(
          { type: "system", subtype: "init", tools: [] },
          { type: "assistant", message: { content: [{ type: "text", text }], usage: { output_tokens: 0 } } },
          {
            type: "result",
            subtype: "success",
            is_error: false,
            result: text,
            usage: { input_tokens: 0, output_tokens: 0 },
          },
        );
      },
      /key was refused.*401/,
    ],
    "the end of OAuth, in JSON": [
      ({ say }) => {
        const message = "Qwen OAuth free tier was discontinued on 2026-04-15. Run /auth to switch.";
        say({ type: "result", subtype: "error_during_execution", is_error: true, error: { message } });
        process.exitCode = 1;
      },
      /OAuth.*2026-04-15.*\/auth/,
    ],
    "the end of OAuth, on standard error": [
      () => {
        process.stderr.write("Qwen OAuth free tier was discontinued on 2026-04-15. Run /auth to switch.\n");
        process.exit(1);
      },
      /OAuth.*2026-04-15.*\/auth/,
    ],
    "a signal": [() => process.kill(process.pid, "SIGKILL"), /signal/],
  };
  for (const [what, [act, why]] of Object.entries(FAILURES)) {
    for (const stream of [false, true]) {
      test(`${what} is reported in the 429${stream ? " of a streaming caller" : ""}`, async (t) => {
        await refusal(await setUp(t, act), why, { stream });
      });
    }
  }

  test("a key of the user's is in no message", async (t) => {
    const act = () => {
      process.stderr.write(`Error: Incorrect API key provided: ${process.env.OPENAI_API_KEY}\n`);
      process.exit(1);
    };
    const OPENAI_API_KEY = "sk-a-key-of-the-user";
    const message = await refusal(await setUp(t, act, { env: { OPENAI_API_KEY } }), /key/);
    assert.ok(!message.includes(OPENAI_API_KEY));
  });

  test("a login by OAuth alone is told without starting the CLI", async (t) => {
    const set = await setUp(t);
    const settings = { security: { auth: { selectedType: "qwen-oauth" } } };
    writeFileSync(join(set.home.directory, "settings.json"), JSON.stringify(settings));
    await refusal(set, /only logged in by OAuth/);
    assert.equal(set.fake.runs().length, 0);
  });

  test("100 MB of output are not read to the end", async (t) => {
    const act = () => {
      const block = Buffer.alloc(1_000_000, "x");
      process.stdout.on("error", () => {});
      for (let count = 0; count < 100; count += 1) process.stdout.write(block);
    };
    const before = process.memoryUsage().rss;
    await refusal(await setUp(t, act), /printed more/);
    assert.ok(process.memoryUsage().rss - before < 150_000_000);
  });

  /** Leaves a child behind, reports its pid, and does not end. */
  const hang = ({ note, say, data }) => {
    const { spawn } = require("node:child_process");
    if (data.ignores) for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => {});
    const trap = data.ignores ? "trap '' TERM INT HUP; " : "";
    const child = spawn("/bin/sh", ["-c", `${trap}while :; do sleep 1; done`], { stdio: "inherit" });
    if (data.says) {
      say({
        type: "stream_event",
        event: { type: "content_block_delta", delta: { type: "text_delta", text: "one" } },
      });
    }
    note("child", child.pid);
    setInterval(() => {}, 1000);
  };
  for (const ignores of [false, true]) {
    for (const says of [false, true]) {
      const what = `an abort ${says ? "in the middle of a stream" : "before the first word"} ends a CLI`;
      test(`${what} ${ignores ? "that ignores signals" : "and its children"}`, async (t) => {
        const set = await setUp(t, hang, { data: { ignores, says } });
        const controller = new AbortController();
        const asked = chat(set.client, "hi", { stream: true }, { signal: controller.signal });
        asked.catch(() => {});
        const child = await until(() => set.fake.noted("child"), "the CLI runs", 20_000);
        const [{ pid }] = set.fake.runs();
        t.after(() => [pid, child].filter(isRunning).forEach((left) => process.kill(left, "SIGKILL")));
        assert.ok(isRunning(pid) && isRunning(child));
        const response = says && (await asked);
        controller.abort();
        const failing = response ? response.text() : asked;
        await assert.rejects(failing, { name: "AbortError" });
        await until(() => !isRunning(pid) && !isRunning(child), "both have ended", 10_000);
        await nothingLeft(set);
      });
    }
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
      await until(() => !isRunning(pid) && !isRunning(child), `${end}: both have ended`, 10_000);
      await nothingLeft(set);
    }
  });

  test("a child of a CLI that has ended is killed too", async (t) => {
    const act = ({ note, say }) => {
      const { spawn } = require("node:child_process");
      const child = spawn("/bin/sh", ["-c", "while :; do sleep 1; done"], { stdio: "inherit" });
      child.unref();
      note("child", child.pid);
      say({ type: "result", subtype: "success", is_error: false, result: "done" });
      process.exit(0);
    };
    const set = await setUp(t, act);
    const response = await chat(set.client, "hi");
    assert.equal((await response.json()).choices[0].message.content, "done");
    const child = set.fake.noted("child");
    t.after(() => isRunning(child) && process.kill(child, "SIGKILL"));
    await until(() => !isRunning(child), "the child has ended", 10_000);
    await nothingLeft(set);
  });

  test("a broken answer is an error of the stream, not a whole answer", async (t) => {
    const act = ({ say }) => {
      say({
        type: "stream_event",
        event: { type: "content_block_delta", delta: { type: "text_delta", text: "half" } },
      });
      process.exit(1);
    };
    const set = await setUp(t, act);
    const response = await chat(set.client, "hi", { stream: true });
    assert.equal(response.status, 200);
    await assert.rejects(response.text(), { code: "ERR_QWEN_CLI_FAILED" });
    await refusal({ ...set, events: [] }, /qwen CLI/);
  });

  test("QWEN_CLI_PATH wins over PATH, and is reported if it is not a file", async (t) => {
    const set = await setUp(t);
    const named = makeFakeCli(set.home, sayHello, { directory: "else where" });
    const make = (env) => {
      const made = qwen.createClient({ ...set.settings, env: { ...set.settings.env, ...env } });
      t.after(() => made.close());
      return made;
    };
    assert.equal((await chat(make({ QWEN_CLI_PATH: named.path }), "hi")).status, 200);
    assert.equal((await chat(make({ QWEN_CLI_PATH: "~/else where/qwen" }), "hi")).status, 200);
    assert.deepEqual([named.runs().length, set.fake.runs().length], [2, 0]);
    const missing = join(set.home.home, "none");
    await refusal(
      { ...set, client: make({ QWEN_CLI_PATH: missing }) },
      new RegExp(`QWEN_CLI_PATH names ${missing}`),
    );
    await refusal({ ...set, client: make({ QWEN_CLI_PATH: set.home.home }) }, /QWEN_CLI_PATH/);
    writeFileSync(missing, "#!/bin/sh\n");
    chmodSync(missing, 0o600);
    await refusal({ ...set, client: make({ QWEN_CLI_PATH: missing }) }, /can't be started/);
    assert.equal(set.fake.runs().length, 0);
  });

  test(
    "a missing CLI is reported, with the way to install it",
    { skip: existsSync("/usr/local/bin/qwen") && "a qwen CLI is installed here" },
    async (t) => {
      const set = await setUp(t, sayHello, { env: { PATH: "/usr/bin:/bin:relative" } });
      await refusal(set, /no qwen CLI on PATH.*npm install -g/);
    },
  );

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
