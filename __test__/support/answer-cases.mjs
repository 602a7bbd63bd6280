// Odd answers to a plain client: the server's bytes arrive, memory stays bounded, and the account stays usable.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { deflateSync, gzipSync } from "node:zlib";

const decode = (bytes) => new TextDecoder().decode(bytes);
const base64 = (bytes) => ({ base64: Buffer.from(bytes).toString("base64") });
const event = (value) => `data: ${JSON.stringify(value)}\n\n`;
const choice = (delta, finish_reason = null) => event({ choices: [{ index: 0, delta, finish_reason }] });
const DONE = "data: [DONE]\n\n";
const SPOKEN = choice({ role: "assistant", content: "half" });
const GOOD = SPOKEN + choice({}, "stop") + DONE;
const QUOTA = { code: "insufficient_quota", message: "week allocated quota exceeded" };
const MAX_GROWTH = 60 * 2 ** 20;

const failure = (promise) =>
  promise.then(
    (value) => assert.fail(`resolved with ${String(value).slice(0, 200)}`),
    (error) => error,
  );

async function answered({ client, server }, step, stream = true) {
  await server.script("chat", step);
  return client.fetch(`${client.baseUrl}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "coder-model", stream, messages: [{ role: "user", content: "hi" }] }),
  });
}

async function assertReady({ client }) {
  const { state, lastError } = await client.activeAccount();
  assert.deepEqual([state, lastError?.code], ["ready", undefined]);
}

/** Reads the whole body, as a caller does, and returns the same. */
async function readsInBounds(context, step, read) {
  const before = process.memoryUsage().rss;
  const response = await answered(context, step);
  const result = await read(response);
  const grown = process.memoryUsage().rss - before;
  assert.ok(grown < MAX_GROWTH, `the process grew by ${grown} bytes`);
  return { response, result };
}

async function lengthOf(response) {
  let length = 0;
  for await (const chunk of response.body) length += chunk.byteLength;
  return length;
}

export const cases = {
  async "an error after text arrives unchanged"(context) {
    for (const end of [
      event({ error: QUOTA }),
      `event:error\n:HTTP_STATUS/429\ndata:${JSON.stringify(QUOTA)}\n\n`,
      choice({ content: `event:error\n:HTTP_STATUS/429\ndata:${JSON.stringify(QUOTA)}` }, "error_finish"),
      choice({}, "a-new-word"),
      event({ error: QUOTA, choices: [{ index: 0, delta: { content: "x" } }] }),
    ]) {
      const sent = SPOKEN + end + DONE;
      const response = await answered(context, { events: [sent] });
      assert.deepEqual([response.status, await response.text()], [200, sent]);
    }
  },

  async "an error in place of an answer has a status, unless a stream is silent before it for long"(context) {
    const code = "data_inspection_failed";
    const error = { error: { message: "no", type: code, code } };
    const slowly = [JSON.stringify(error).slice(0, 20), { wait: 1500 }, JSON.stringify(error).slice(20)];
    const whole = await answered(context, { events: slowly, contentType: "application/json" }, false);
    assert.deepEqual([whole.status, await whole.json()], [400, error]);
    const quickly = await answered(context, { events: [event(error)] });
    assert.deepEqual([quickly.status, await quickly.json()], [400, error]);
    const late = await answered(context, { events: [": ping\n\n", { wait: 3000 }, event(error)] });
    assert.deepEqual([late.status, await late.text()], [200, `: ping\n\n${event(error)}`]);
    await assertReady(context);
  },

  async "an error after text, and then a break"(context) {
    const sent = SPOKEN + event({ error: QUOTA });
    const response = await answered(context, { events: [sent], end: "destroy" });
    const reader = response.body.getReader();
    let text = "";
    const error = await failure(
      (async () => {
        for (;;) text += decode((await reader.read()).value ?? assert.fail("it ended well"));
      })(),
    );
    assert.deepEqual([text, error.name, error.code], [sent, "QwenAuthError", "ERR_QWEN_NETWORK"]);
  },

  async "a stream is over at [DONE], though its connection stays open"(context) {
    for (let round = 0; round < 3; round += 1) {
      const response = await answered(context, { events: [GOOD], end: "silence" });
      assert.equal(await response.text(), GOOD);
      await context.server.chat(-1, ({ closedByClient }) => closedByClient);
    }
    const { requests } = await context.server.state();
    assert.deepEqual(
      requests.filter(({ finishedAt }) => !finishedAt),
      [],
    );
  },

  async "the package's own headers replace the server's"(context) {
    const names = ["account", "error", "degraded", "fallback", "anything"].map((name) => `x-qwen-${name}`);
    const headers = Object.fromEntries([...names, "x-request-id"].map((name) => [name, "theirs"]));
    for (const status of [200, 400]) {
      const response = await answered(context, { status, headers, body: "{}" });
      const { id } = await context.client.activeAccount();
      const got = names.map((name) => response.headers.get(name));
      assert.deepEqual(got, [id, null, null, null, null]);
      assert.equal(response.headers.get("x-request-id"), "theirs");
      await response.text();
    }
  },

  async "an error beside an answer yields the answer"(context) {
    const body = { error: QUOTA, choices: [{ index: 0, message: { content: "hi" }, finish_reason: "stop" }] };
    const response = await answered(context, { status: 200, body }, false);
    assert.deepEqual([response.status, await response.json()], [200, body]);
    await assertReady(context);
  },

  async "invalid UTF-8 and deep nesting pass unchanged"(context) {
    const deep = `{"error":{"message":"no","x":${"[".repeat(200_000)}${"]".repeat(200_000)}}}`;
    const bodies = [Buffer.from('{"error":{"message":"a\xff\xfe"}}', "latin1"), Buffer.from(deep)];
    for (const status of [200, 400]) {
      for (const body of bodies) {
        const contentType = "application/json";
        const response = await answered(context, { status, contentType, events: [base64(body)] });
        // An error inside a success gets its own status.
        const got = Buffer.from(await response.arrayBuffer());
        if (status === 400) assert.ok(got.equals(body));
        else assert.ok(response.status >= 400 || got.equals(body));
      }
    }
    await assertReady(context);
  },

  async "an error of 100 MB passes in bounded memory"(context) {
    const step = { do: "huge", bytes: 100e6, status: 400 };
    const { response, result } = await readsInBounds(context, step, lengthOf);
    assert.deepEqual([response.status, result], [400, 100e6]);
    await assertReady(context);
  },

  async "an endless error passes, and ends with its reader"(context) {
    for (const status of [400, 500, 429]) {
      // A limit is waited for once.
      const step = { do: "flood", bytes: 1e12, status, times: status === 429 ? 2 : 1 };
      const { response } = await readsInBounds(context, step, async ({ body }) => {
        const reader = body.getReader();
        await reader.read();
        await reader.cancel();
      });
      assert.equal(response.status, status);
      await context.server.chat(-1, ({ closedByClient }) => closedByClient);
    }
  },

  async "every compression is offered as requested, and unrequested ones stay packed"(context) {
    for (const [encoding, bytes] of [
      ["gzip", gzipSync(GOOD)],
      ["deflate", deflateSync(GOOD)],
    ]) {
      const headers = { "content-encoding": encoding };
      const response = await answered(context, { events: [base64(bytes)], headers });
      assert.equal(await response.text(), GOOD, encoding);
      assert.equal(response.headers.get("content-encoding"), null);
    }
    const bomb = gzipSync(Buffer.alloc(100e6, 0x20), { level: 9 });
    for (const [status, contentType] of [
      [200, "text/event-stream"],
      [200, "application/json"],
      [400, "application/json"],
    ]) {
      const step = { status, contentType, events: [base64(bomb)], headers: { "content-encoding": "gzip" } };
      const { result } = await readsInBounds(context, step, lengthOf);
      assert.equal(result, 100e6, `${status} ${contentType}`);
    }
    await assertReady(context);
  },

  async "a cut compressed answer is an error"(context) {
    const text = Array.from({ length: 2000 }, (_, index) =>
      createHash("md5").update(`${index}`).digest("hex"),
    );
    const whole = gzipSync(SPOKEN + choice({ content: text.join(" ") }));
    const step = { events: [base64(whole.subarray(0, -2000))], headers: { "content-encoding": "gzip" } };
    const error = await failure((await answered(context, step)).text());
    assert.deepEqual([error.name, error.code], ["QwenAuthError", "ERR_QWEN_NETWORK"]);
    await assertReady(context);
  },
};
