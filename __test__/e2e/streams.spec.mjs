// OpenCode at each kind of end of a stream: number of requests, kept text, message, and the account's state. The tests
// of the core have every end: crates/client/src/host/guard/tests.rs.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { DONE, event } from "../support/qwen-server/answer.mjs";
import { until } from "../support/harness.mjs";
import { exchanges } from "./support/checks.mjs";
import { STORE, openHost, suite } from "./support/opencode.mjs";

const HALF = "half an answer";

const choice = (delta, finish_reason = null) =>
  event({ object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason }] });
const role = choice({ role: "assistant", content: "" });
const said = (text) => choice({ content: text });
const ended = (reason) => choice({}, reason);
// An error drops unread text, so it must not overtake the text.
const spoken = [role, ...HALF.split(/(?<= )/).map(said)];
const ending = (reason) => [...spoken, ended(reason), DONE];
const block = (status, code, message) =>
  `event:error\n:HTTP_STATUS/${status}\ndata:${JSON.stringify({ code, message, request_id: "5021c9e4-9503" })}`;
const limited = block(429, "Throttling", "Requests rate limit exceeded");
const weekly = block(429, "insufficient_quota", "week allocated quota exceeded");

/**
 * Each row has the server's `events`, and OpenCode's answer: `text`, `finish` and `error`. `state` is the reason for
 * which the account cools afterwards. Each row sends one request.
 */
const ONE_ACCOUNT = {
  length: { events: ending("length"), finish: "length" },
  sensitive: { events: ending("sensitive"), finish: "content-filter" },
  "a made-up word": { events: ending("a-new-word"), finish: "stop" },
  "function_call without a call": { events: ending("function_call"), finish: "stop" },
  "no reason": {
    events: [...spoken, DONE],
    error: "Qwen ended its answer without finishing it. Send the message again.",
  },
  abort: { events: ending("abort"), error: "Qwen broke its answer off (abort). Send the message again." },
  "error_finish with a limit": {
    events: [...spoken, said(limited), ended("error_finish"), DONE],
    error: "Qwen ended its answer with an error: Requests rate limit exceeded (Throttling)",
    state: "rate-limit",
  },
  "an error event in the middle": {
    events: [...spoken, `${weekly}\n\n`, DONE],
    error: "Qwen ended its answer with an error: week allocated quota exceeded (insufficient_quota)",
    state: "quota",
  },
  "an error event at the beginning": {
    events: [`${block(400, "InvalidParameter", "tools is invalid (504)")}\n\n`],
    text: "",
    error: "tools is invalid (504)",
  },
  "an error event after a good end": {
    events: [...spoken, ended("stop"), DONE, `${weekly}\n\n`],
    finish: "stop",
  },
  "a whole JSON error": {
    events: ['{"error":{"message":"Model qwen3-x not supported"}}'],
    contentType: "application/json",
    text: "",
    error: "Model qwen3-x not supported",
  },
  "a whole JSON answer": {
    events: [
      `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"${HALF}"},"finish_reason":"stop"}]}`,
    ],
    contentType: "application/json",
    finish: "stop",
  },
  "a whole JSON answer without a finish reason": {
    events: [`{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"content":"${HALF}"}}]}`],
    contentType: "application/json",
    error: "Qwen ended its answer without finishing it. Send the message again.",
  },
  "content in parts, usage beside null": {
    events: [
      choice({ role: "assistant", content: [{ type: "text", text: HALF }] }),
      ended("stop"),
      event({ choices: null, usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 } }),
      DONE,
    ],
    finish: "stop",
  },
  "[DONE] on an open connection, called text": {
    events: ending("stop"),
    contentType: "text/plain",
    end: "silence",
    finish: "stop",
  },
  "a stream that is cut after text": {
    events: spoken,
    end: "destroy",
    error: "The connection to 127.0.0.1 broke: the server closed it early. Send the message again.",
  },
  "a stream that is cut before text": {
    events: [role],
    end: "destroy",
    text: "",
    error: "The connection to 127.0.0.1 broke: the server closed it early. Send the message again.",
  },
  "an empty stream": { events: [], text: "", error: "Qwen sent an empty answer. Send the message again." },
};

/** Errors in place of an answer: the first account is asked, then the second, which answers. */
const TWO_ACCOUNTS = {
  "a spent quota as an error block": { events: [`id:1\n${weekly}\n\n`], asked: 1, state: "quota" },
  "a limit as JSON": {
    events: ['{"code":"Throttling","message":"Requests rate limit exceeded"}'],
    contentType: "application/json",
    asked: 2,
    state: "rate-limit",
  },
};

describe("ends of streams", { ...suite(), concurrency: 1 }, () => {
  let host;
  let service;
  let end;

  /** One host for all; each row begins with fresh accounts. */
  function begin(...names) {
    host.server.reset();
    host.replaceAccounts(...names);
  }

  async function ask() {
    const { text, finish, error, retries } = await service.ask("hello");
    assert.equal(retries, 0);
    // OpenCode adds its own words to a filtered answer.
    return { text, finish, error: finish === undefined ? error?.replaceAll("\u2060", "") : undefined };
  }

  /** The reason for which the first account cools. */
  function coolingReason() {
    const { coolingReason: reason, exhaustedUntil } = host.sandbox.readJson(STORE).accounts[0];
    return exhaustedUntil > Date.now() ? reason : undefined;
  }

  before(async () => {
    host = await openHost({ after: (close) => (end = close) }, { login: false });
    service = await host.serve();
  });
  after(() => end?.());

  for (const [name, row] of Object.entries(ONE_ACCOUNT)) {
    test(name, async () => {
      begin("alice");
      const { events, end, contentType, text = HALF, finish, error, state } = row;
      // In one piece, so that the end comes together with the text before it.
      host.server.script("chat", [{ events: [events.join("")], end, contentType, times: Infinity }]);
      assert.deepEqual(await ask(), { text, finish, error });
      assert.deepEqual(exchanges(host.server, "chat"), ["200 alice"]);
      // An error at the end is noted after the answer.
      if (state) await until(() => coolingReason() === state, `the account cools: ${state}`);
      else assert.equal(coolingReason(), undefined);
    });
  }

  for (const [name, { asked, state, ...step }] of Object.entries(TWO_ACCOUNTS)) {
    test(`${name}: the next account answers`, async () => {
      begin("alice", "bob");
      host.server.script("chat", [{ ...step, account: "alice", times: Infinity }]);
      assert.deepEqual(await ask(), { text: "You said: hello", finish: "stop", error: undefined });
      assert.deepEqual(exchanges(host.server, "chat"), [...Array(asked).fill("200 alice"), "200 bob"]);
      assert.equal(coolingReason(), state);
    });
  }
});
