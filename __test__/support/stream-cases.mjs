// Promises of response bodies, for Node and Bun: each case is a function of a client, a server in
// another process, and a factory of further clients.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";

const decode = (bytes) => new TextDecoder().decode(bytes);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const closedByClient = (entry) => entry.closedByClient;
const failure = (promise) =>
  promise.then(
    (value) => assert.fail(`resolved with ${value}`),
    (error) => error,
  );
const collectGarbage = globalThis.gc ?? (() => globalThis.Bun?.gc(true));

/** Requests a scripted stream. */
async function streamed({ client, server }, step, init) {
  if (step) await server.script("chat", step);
  return ask(client, "hi", init);
}

function ask(client, text, init) {
  const messages = [{ role: "user", content: text }];
  return client.fetch(`${client.baseUrl}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "coder-model", stream: true, messages }),
    ...init,
  });
}

async function readAll(reader) {
  const chunks = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return Buffer.concat(chunks);
    assert.ok(value instanceof Uint8Array && value.byteLength > 0, "no chunk is empty");
    chunks.push(value);
  }
}

/** Reads until the stream breaks. Returns the text and the error. */
async function readUntilError(reader) {
  const chunks = [];
  for (;;) {
    try {
      const { done, value } = await reader.read();
      assert.equal(done, false, "the stream ended as if nothing had happened");
      chunks.push(value);
    } catch (error) {
      return { text: decode(Buffer.concat(chunks)), error };
    }
  }
}

export const cases = {
  async "random chunks pass through byte for byte"(context) {
    const chunks = Array.from({ length: 300 }, () =>
      Buffer.from({ length: 1 + Math.floor(Math.random() * 900) }, () => Math.floor(Math.random() * 256)),
    );
    const events = chunks.flatMap((chunk, index) => [
      { base64: chunk.toString("base64") },
      ...(index % 25 ? [] : [{ wait: 3 }]),
    ]);
    const sent = createHash("sha256").update(Buffer.concat(chunks)).digest("hex");
    for (const read of [
      async (response) => Buffer.from(await response.arrayBuffer()),
      (response) => readAll(response.body.getReader()),
    ]) {
      const got = await read(await streamed(context, { events }));
      assert.equal(createHash("sha256").update(got).digest("hex"), sent);
    }
  },

  async "64 MB of small events pass through byte for byte"(context) {
    const response = await streamed(context, { do: "flood", bytes: 64e6, size: 1024 });
    const got = Buffer.from(await response.arrayBuffer());
    const event = got.subarray(0, got.indexOf("\n\n") + 2);
    const count = Math.ceil(64e6 / event.length);
    const expected = createHash("sha256");
    for (let index = 0; index < count; index += 1) expected.update(event);
    const events = createHash("sha256").update(got.subarray(0, count * event.length));
    assert.equal(events.digest("hex"), expected.digest("hex"));
    const tail = decode(got.subarray(count * event.length));
    assert.match(tail, /^data: .*"finish_reason":"stop".*\n\ndata: \[DONE\]\n\n$/);
  },

  async "a stream arrives as it is sent"(context) {
    const response = await streamed(context, { events: ["data: one\n\n", { wait: 60_000 }] });
    const reader = response.body.getReader();
    assert.equal(decode((await reader.read()).value), "data: one\n\n");
    await reader.cancel();
    await context.server.chat(-1, closedByClient);
  },

  async "a reader that idles stops the server, and memory stays"(context) {
    const before = process.memoryUsage().rss;
    const response = await streamed(context, { do: "flood", bytes: 1e9, size: 4096 });
    const reader = response.body.getReader();
    await reader.read();
    let last = -1;
    for (let rounds = 0; ; rounds += 1) {
      const { bytes } = await context.server.chat(-1);
      if (bytes === last) break;
      last = bytes;
      assert.ok(rounds < 40, `the server still sends: ${bytes} bytes`);
      await sleep(250);
    }
    assert.ok(last < 30e6, `${last} bytes were taken from the server`);
    const grown = process.memoryUsage().rss - before;
    assert.ok(grown < 40 * 2 ** 20, `the process grew by ${grown} bytes`);
    await reader.read();
    await reader.cancel();
    await context.server.chat(-1, closedByClient);
  },

  async "cancelling closes the socket, by any method"(context) {
    const cancels = [
      (response) => response.body.cancel(),
      (response) => response.body.getReader().cancel("enough"),
      async (response) => {
        for await (const chunk of response.body) if (chunk) break;
      },
      async (response) => {
        const reader = response.body.getReader();
        await reader.read();
        await reader.read();
        const pending = reader.read();
        await reader.cancel();
        assert.equal((await pending).done, true);
      },
    ];
    for (const cancel of cancels) {
      const events = ["data: 1\n\n", { wait: 300 }, "data: 2\n\n", { wait: 60_000 }];
      await cancel(await streamed(context, { events }));
      await context.server.chat(-1, closedByClient, 2000);
    }
  },

  async "an abort during a stream rejects with its reason and closes the socket"(context) {
    for (const step of [{ do: "stall", after: 2 }, "headers_then_stall", { do: "flood", bytes: 1e9 }]) {
      const controller = new AbortController();
      const response = await streamed(context, step, { signal: controller.signal });
      const reader = response.body.getReader();
      if (step.do) await reader.read();
      const broken = step.do === "flood" ? undefined : failure(readAll(reader));
      const reason = new Error("mine");
      controller.abort(reason);
      assert.equal(await (broken ?? failure(readAll(reader))), reason);
      assert.equal(await failure(reader.read()), reason);
      await context.server.chat(-1, closedByClient, 2000);
    }
  },

  async "an abort of an unread body closes the socket, and text() rejects with the reason"(context) {
    const controller = new AbortController();
    const response = await streamed(context, { do: "stall", after: 2 }, { signal: controller.signal });
    controller.abort();
    await context.server.chat(-1, closedByClient, 2000);
    assert.equal((await failure(response.text())).name, "AbortError");
  },

  async "an abort after the end does nothing"(context) {
    const controller = new AbortController();
    const response = await streamed(context, undefined, { signal: controller.signal });
    assert.match(await response.text(), /\[DONE\]/);
    controller.abort();
    await sleep(20);
    assert.equal((await context.server.chat(-1)).closedByClient, false);
  },

  async "a dropped unread response is closed when it is collected"(context) {
    const controller = new AbortController();
    const inits = [undefined, { signal: controller.signal }];
    // In its own function, so that no variable here keeps the response alive.
    const drop = async (init) => void (await streamed(context, { do: "flood", bytes: 1e9 }, init));
    for (const init of inits) {
      await drop(init);
      const { id } = await context.server.chat(-1);
      for (let round = 0; ; round += 1) {
        assert.ok(round < 100, "it was never closed");
        collectGarbage();
        await sleep(30);
        const { requests } = await context.server.state();
        if (requests.find((entry) => entry.id === id).closedByClient) break;
      }
    }
  },

  async "a cut stream fails after all its bytes"(context) {
    for (const step of [
      { do: "cut", after: 2 },
      { do: "cut", after: 2, reset: true },
    ]) {
      const response = await streamed(context, step);
      const reader = response.body.getReader();
      const { text, error } = await readUntilError(reader);
      if (!step.reset) assert.equal(text.split("\n\n").length, 3);
      assert.deepEqual([error.name, error.code], ["QwenAuthError", "ERR_QWEN_NETWORK"]);
      assert.equal(await failure(reader.read()), error);
      assert.match((await failure((await streamed(context, step)).text())).code, /^ERR_QWEN_NETWORK$/);
    }
  },

  async "100 MB of an error, or out of a compressed answer, pass in bounded memory"(context) {
    const bomb = { base64: gzipSync(Buffer.alloc(100e6, " "), { level: 9 }).toString("base64") };
    for (const [status, step] of [
      [400, { do: "flood", bytes: 100e6, status: 400 }],
      [200, { events: [bomb], headers: { "content-encoding": "gzip" } }],
    ]) {
      const before = process.memoryUsage().rss;
      const response = await streamed(context, step);
      let length = 0;
      for await (const chunk of response.body) length += chunk.byteLength;
      assert.ok(response.status === status && length >= 100e6, `${response.status}, ${length} bytes`);
      const grown = process.memoryUsage().rss - before;
      assert.ok(grown < 60 * 2 ** 20, `the process grew by ${grown} bytes`);
    }
  },

  async "a reader may use its own buffers"(context) {
    const events = ["data: ", { wait: 5 }, "x".repeat(70_000), { wait: 5 }, "\n\n"];
    const response = await streamed(context, { events });
    const reader = response.body.getReader({ mode: "byob" });
    let text = "";
    for (;;) {
      const { done, value } = await reader.read(new Uint8Array(1000));
      if (done) break;
      assert.ok(value.byteLength > 0 && value.byteLength <= 1000);
      text += decode(value);
    }
    assert.equal(text, `data: ${"x".repeat(70_000)}\n\n`);
    const broken = (await streamed(context, { do: "cut", after: 1 })).body.getReader({ mode: "byob" });
    const readOn = async () => {
      while (!(await broken.read(new Uint8Array(64))).done);
    };
    assert.equal((await failure(readOn())).code, "ERR_QWEN_NETWORK");
    const idle = (await streamed(context, "headers_then_stall")).body.getReader({ mode: "byob" });
    await idle.cancel();
    await context.server.chat(-1, closedByClient);
  },

  async "tee, clone and pipes give the same bytes"(context) {
    const events = ["data: one\n\n", { wait: 10 }, "data: two\n\n"];
    const [left, right] = (await streamed(context, { events })).body.tee();
    const texts = await Promise.all([left, right].map((branch) => new Response(branch).text()));
    assert.deepEqual(texts, [events[0] + events[2], events[0] + events[2]]);
    const response = await streamed(context, { events });
    const copy = response.clone();
    assert.deepEqual([await response.text(), await copy.text()], texts);
    const piped = (await streamed(context, { events })).body.pipeThrough(new TextDecoderStream());
    let text = "";
    for await (const part of piped) text += part;
    assert.equal(text, texts[0]);
  },

  async "closing the client ends its streams and closes their sockets"(context) {
    const client = context.makeClient();
    const response = await streamed({ ...context, client }, { do: "stall", after: 2 });
    const reader = response.body.getReader();
    await reader.read();
    const broken = failure(readAll(reader));
    client.close();
    assert.equal((await broken).name, "AbortError");
    await context.server.chat(-1, closedByClient, 2000);
  },
};
