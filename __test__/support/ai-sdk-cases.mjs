// The `ai` package with `@ai-sdk/openai-compatible` on top of a client's fetch, for Node and Bun.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import clientModule from "../../lib/client.js";
import { PNG } from "./png.mjs";

const failure = (promise) =>
  promise.then(
    (value) => assert.fail(`resolved with ${value}`),
    (error) => error,
  );
const quiet = { maxRetries: 0, onError() {} };

function provider({ client }) {
  return createOpenAICompatible({
    name: "qwen",
    baseURL: client.baseUrl,
    apiKey: "unused",
    fetch: client.fetch,
    includeUsage: true,
  });
}

const weather = tool({
  description: "The weather",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
  execute: async ({ city }) => `sunny in ${city}`,
});

export const cases = {
  async "answers and streams"(context) {
    const model = provider(context)("coder-model");
    const { text, usage, response } = await generateText({ model, system: "Help.", prompt: "hello" });
    assert.equal(text, "You said: hello");
    assert.ok(usage.totalTokens > 0 && response.id);
    const result = streamText({ model, prompt: "SAY 50", ...quiet });
    let streamed = "";
    for await (const part of result.textStream) streamed += part;
    assert.match(streamed, /word1 word2 .*word50/);
    assert.equal(await result.finishReason, "stop");
    assert.ok((await result.usage).totalTokens > 0);
    assert.deepEqual((await context.server.state()).violations, []);
  },

  async "tools run, and their results go back"(context) {
    const options = {
      model: provider(context)("coder-model"),
      tools: { weather },
      stopWhen: stepCountIs(3),
      prompt: 'CALL weather {"city":"Hangzhou"}',
    };
    const generated = await generateText(options);
    assert.match(generated.text, /The tool answered: .*sunny in Hangzhou/);
    assert.equal(generated.steps.length, 2);
    assert.match(await streamText({ ...options, ...quiet }).text, /sunny in Hangzhou/);
    assert.deepEqual((await context.server.state()).violations, []);
  },

  async "images are seen"(context) {
    const content = [
      { type: "text", text: "what is this?" },
      { type: "image", image: Buffer.from(PNG, "base64"), mediaType: "image/png" },
    ];
    const model = provider(context)("vision-model");
    const { text } = await generateText({ model, messages: [{ role: "user", content }] });
    assert.match(text, /Image: image\/png, \d+ bytes/);
  },

  async "an abort closes the socket"(context) {
    await context.server.script("chat", { do: "stall", after: 2 });
    const controller = new AbortController();
    const model = provider(context)("coder-model");
    const result = streamText({ model, prompt: "SAY 9", abortSignal: controller.signal, ...quiet });
    const parts = [];
    for await (const part of result.fullStream) {
      parts.push(part.type);
      if (part.type === "text-delta") controller.abort();
    }
    assert.ok(parts.includes("abort"), parts.join());
    await context.server.chat(-1, ({ closedByClient }) => closedByClient);
  },

  async "errors are the SDK's own, with the server's message"(context) {
    const ask = () =>
      generateText({ model: provider(context)("coder-model"), prompt: "hello", maxRetries: 0 });
    await context.server.script("chat", { do: "server_error", status: 500 });
    const broken = await failure(ask());
    assert.deepEqual([broken.statusCode, broken.isRetryable], [500, true]);
    await context.server.script("chat", { do: "cut", after: 3, pace: 250 });
    const stream = streamText({ model: provider(context)("coder-model"), prompt: "SAY 9", ...quiet });
    const types = [];
    const torn = await failure(
      (async () => {
        for await (const part of stream.fullStream) {
          types.push(part.type);
          if (part.type === "error") throw part.error;
        }
      })(),
    );
    assert.ok(types.includes("text-delta"), types.join());
    assert.equal((torn.cause ?? torn).code, "ERR_QWEN_NETWORK");
    await context.server.script("chat", { do: "token_rejected", times: 2 });
    const refused = await failure(ask());
    assert.equal(refused.statusCode, 401);
    assert.match(refused.message, /[Ll]og in/);
    assert.equal(refused.responseHeaders["x-qwen-error"], "ERR_QWEN_FREE_TIER_DISCONTINUED");
  },

  async "a rate limit is the SDK's own, with the server's Retry-After"(context) {
    await context.server.script("chat", { do: "rate_limit", retryAfter: 77 });
    const model = provider(context)("coder-model");
    const limited = await failure(generateText({ model, prompt: "hello", maxRetries: 0 }));
    assert.ok(APICallError.isInstance(limited), limited.stack);
    assert.deepEqual([limited.statusCode, limited.isRetryable], [429, true]);
    assert.equal(limited.responseHeaders["retry-after"], "77");
  },

  async "a final error is thrown once, in the server's words, even inside a success"(context) {
    const message = "Input data may contain inappropriate content.";
    const body = { error: { code: "data_inspection_failed", message } };
    for (const status of [400, 200]) {
      const { chats } = (await context.server.state()).stats;
      await context.server.script("chat", { status, body, times: "always" });
      const model = provider(context)("coder-model");
      const thrown = await failure(generateText({ model, prompt: "hello", maxRetries: 3 }));
      assert.ok(APICallError.isInstance(thrown), thrown.stack);
      assert.deepEqual([thrown.statusCode, thrown.message, thrown.isRetryable], [400, message, false]);
      assert.equal((await context.server.state()).stats.chats - chats, 1);
      await context.server.act("clearScripts", { endpoint: "chat" });
    }
  },

  async "odd events that do no harm are understood in OpenCode"({ server, settings }) {
    const call = {
      role: "tool",
      tool_calls: { function: { name: "weather", arguments: { city: "\u{1f600}" } } },
    };
    const client = new clientModule.QwenClient(settings, true);
    const lines = [
      ":",
      "data:",
      "data: ping",
      'data: {"created":"1","choices":[null,{"delta":{"role":"","content":["a\\ud83d"]}}],"usage":""}',
      'data: {"id":7,"model":8,"choices":{"message":{"content":"\\ude00b"},"finish_reason":"null"}}',
      `data: ${JSON.stringify({ choices: [{ delta: call }] })}`,
      'data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}',
      'data: {"usage":{"prompt_tokens":"1","completion_tokens":2,"total_tokens":"3"}}',
      "data: [DONE]",
    ];
    await server.script("chat", { events: lines.map((line) => `${line}\n\n`) });
    const tools = { weather };
    const result = streamText({ model: provider({ client })("coder-model"), tools, prompt: "x", ...quiet });
    for await (const part of result.fullStream) if (part.type === "error") throw part.error;
    assert.equal(await result.text, "a\u{1f600}b");
    const [{ toolName, input }] = await result.toolCalls;
    assert.deepEqual([toolName, input], ["weather", { city: "\u{1f600}" }]);
    assert.equal(await result.finishReason, "tool-calls");
    assert.equal((await result.usage).totalTokens, 3);
    client.close();
  },
};
