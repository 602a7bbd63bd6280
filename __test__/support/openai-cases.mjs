// The `openai` package on top of a client's fetch, for Node and Bun.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { PNG } from "./png.mjs";

const failure = (promise) =>
  promise.then(
    (value) => assert.fail(`resolved with ${value}`),
    (error) => error,
  );
const user = (content) => [{ role: "user", content }];
const SAY_HELLO = { model: "coder-model", messages: user("hello") };

function sdk({ client }, options) {
  return new OpenAI({
    apiKey: "unused",
    baseURL: client.baseUrl,
    fetch: client.fetch,
    maxRetries: 0,
    ...options,
  });
}

async function textOf(stream) {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  return text;
}

export const cases = {
  async "answers, models and embeddings"(context) {
    const openai = sdk(context);
    const { data, response } = await openai.chat.completions.create(SAY_HELLO).withResponse();
    assert.equal(data.choices[0].message.content, "You said: hello");
    assert.ok(data.usage.total_tokens > 0);
    assert.equal(response.url, `${context.server.url}/v1/chat/completions`);
    const models = [];
    for await (const model of openai.models.list()) models.push(model.id);
    assert.ok(models.includes("coder-model"));
    const { data: embeddings } = await openai.embeddings.create({
      model: "text-embedding-v4",
      input: ["a", "b"],
    });
    assert.deepEqual([embeddings.length, embeddings[0].embedding.length], [2, 8]);
    const { requests, violations } = await context.server.state();
    assert.deepEqual(violations, []);
    assert.ok(requests.every(({ account }) => account === "alice"));
  },

  async "streams, with usage at their end"(context) {
    const openai = sdk(context);
    const stream = await openai.chat.completions.create({
      ...SAY_HELLO,
      messages: user("SAY 50"),
      stream: true,
      stream_options: { include_usage: true },
    });
    let [text, usage] = ["", undefined];
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.match(text, /word1 word2 .*word50/);
    assert.ok(usage.completion_tokens > 0);
    const helper = openai.chat.completions.stream(SAY_HELLO);
    assert.equal((await helper.finalMessage()).content, "You said: hello");
  },

  async "tools are called, and their results are used"(context) {
    const openai = sdk(context);
    const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
    const messages = [{ role: "system", content: "Help." }, ...user('CALL weather {"city":"Xi\u2019an"}')];
    for (const stream of [false, true]) {
      const request = { model: "coder-model", messages, tools };
      const message = stream
        ? await openai.chat.completions.stream(request).finalMessage()
        : (await openai.chat.completions.create(request)).choices[0].message;
      const [call] = message.tool_calls;
      assert.deepEqual(
        [call.function.name, JSON.parse(call.function.arguments)],
        ["weather", { city: "Xi\u2019an" }],
      );
      const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
      const next = await openai.chat.completions.create({
        ...request,
        messages: [...messages, message, result],
      });
      assert.match(next.choices[0].message.content, /The tool answered: sunny/);
    }
    assert.deepEqual((await context.server.state()).violations, []);
  },

  async "images are seen"(context) {
    const content = [
      { type: "text", text: "what is this?" },
      { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } },
    ];
    const request = { model: "vision-model", messages: user(content), max_tokens: 100_000 };
    const answer = await sdk(context).chat.completions.create(request);
    assert.match(answer.choices[0].message.content, /Image: image\/png, \d+ bytes/);
    const { body } = await context.server.chat(-1);
    assert.deepEqual([body.max_tokens, body.vl_high_resolution_images], [8192, true]);
  },

  async "an abort closes the socket"(context) {
    const openai = sdk(context);
    await context.server.script("chat", { do: "stall", after: 2 });
    const stream = await openai.chat.completions.create({ ...SAY_HELLO, stream: true });
    for await (const chunk of stream) {
      assert.ok(chunk.id);
      break;
    }
    await context.server.chat(-1, ({ closedByClient }) => closedByClient);
    await context.server.script("chat", { do: "stall", after: 2 });
    const aborted = await openai.chat.completions.create({ ...SAY_HELLO, stream: true });
    setTimeout(() => aborted.controller.abort(), 30);
    await textOf(aborted);
    await context.server.chat(-1, ({ closedByClient }) => closedByClient);
    await context.server.script("chat", "hang");
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 30);
    const error = await failure(openai.chat.completions.create(SAY_HELLO, { signal: controller.signal }));
    assert.ok(error instanceof OpenAI.APIUserAbortError, error.stack);
  },

  async "its own time-out and retries work"(context) {
    const hasty = sdk(context, { timeout: 1000 });
    // The first request opens files and sockets that the next ones reuse, so it is not counted.
    await sdk(context).chat.completions.create(SAY_HELLO);
    await context.server.script("chat", "hang");
    const slow = await failure(hasty.chat.completions.create(SAY_HELLO));
    assert.ok(slow instanceof OpenAI.APIConnectionTimeoutError, slow.stack);
    await context.server.chat(-1, ({ closedByClient }) => closedByClient);
    await context.server.script("chat", { do: "server_error", headers: { "retry-after-ms": "10" } }, "reset");
    const patient = sdk(context, { maxRetries: 3 });
    assert.equal((await patient.chat.completions.create(SAY_HELLO)).choices[0].finish_reason, "stop");
  },

  async "errors are the SDK's own, with the server's message"(context) {
    const openai = sdk(context);
    await context.server.script("chat", {
      status: 400,
      body: { error: { message: "too long", code: "bad" } },
    });
    const bad = await failure(openai.chat.completions.create(SAY_HELLO));
    assert.ok(bad instanceof OpenAI.BadRequestError && /too long/.test(bad.message), bad.stack);
    await context.server.script("chat", "html");
    const gateway = await failure(openai.chat.completions.create(SAY_HELLO));
    assert.ok(gateway instanceof OpenAI.InternalServerError && gateway.status === 504, gateway.stack);
    await context.server.script("chat", "reset");
    const broken = await failure(openai.chat.completions.create(SAY_HELLO));
    assert.ok(broken instanceof OpenAI.APIConnectionError, broken.stack);
    assert.equal(broken.cause?.code, "ERR_QWEN_NETWORK");
    await context.server.script("chat", { do: "cut", after: 2 });
    const stream = await openai.chat.completions.create({ ...SAY_HELLO, stream: true });
    assert.equal((await failure(textOf(stream))).code, "ERR_QWEN_NETWORK");
    await context.server.script("chat", { do: "token_rejected", times: 2 });
    const refused = await failure(openai.chat.completions.create(SAY_HELLO));
    assert.ok(refused instanceof OpenAI.AuthenticationError, refused.stack);
    assert.match(refused.message, /[Ll]og in/);
    assert.equal(refused.headers.get("x-qwen-error"), "ERR_QWEN_FREE_TIER_DISCONTINUED");
  },

  async "a rate limit is the SDK's own, with the server's Retry-After"(context) {
    await context.server.script("chat", { do: "rate_limit", retryAfter: 77 });
    const limited = await failure(sdk(context).chat.completions.create(SAY_HELLO));
    assert.ok(limited instanceof OpenAI.RateLimitError, limited.stack);
    assert.deepEqual([limited.status, limited.code], [429, "Throttling.RateQuota"]);
    assert.equal(limited.headers.get("retry-after"), "77");
  },

  async "a final error is thrown once, in the server's words, in any kind of answer"(context) {
    const message = "Input data may contain inappropriate content.";
    const error = { code: "data_inspection_failed", message, type: "invalid_request_error" };
    const patient = sdk(context, { maxRetries: 3 });
    for (const [step, stream] of [
      [{ status: 400, body: { error } }, false],
      [{ status: 200, body: error }, true],
      [{ events: [`event:error\n:HTTP_STATUS/400\ndata:${JSON.stringify(error)}\n\n`] }, true],
    ]) {
      const { chats } = (await context.server.state()).stats;
      await context.server.script("chat", { ...step, times: "always" });
      const thrown = await failure(patient.chat.completions.create({ ...SAY_HELLO, stream }));
      assert.ok(thrown instanceof OpenAI.BadRequestError, thrown.stack);
      assert.ok(thrown.message.includes(message), thrown.message);
      assert.equal((await context.server.state()).stats.chats - chats, 1);
      await context.server.act("clearScripts", { endpoint: "chat" });
    }
  },
};
