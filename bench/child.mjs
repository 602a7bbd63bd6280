// Runs one contender in one runtime, in its own process: `child.mjs <contender> <origin> [expired]`. Reads commands as
// JSON, one object per line. Each answer is a line with a mark, because some contenders print.
import { createConnection } from "node:net";
import { performance } from "node:perf_hooks";
import { createInterface } from "node:readline";
import { open } from "./contenders.mjs";

export const MARK = "\u0001bench ";

const [contender, origin, state] = process.argv.slice(2);
const expires = Date.now() + (state === "expired" ? -1 : 1) * 24 * 3_600_000;
const CHAT = "/chat/completions";
const SMALL_BODY = JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "Hello" }] });
const STREAM_BODY = JSON.stringify({ ...JSON.parse(SMALL_BODY), stream: true });

let opening;
const bodies = new Map();

const init = (bench, body = SMALL_BODY) => ({
  method: "POST",
  headers: { "content-type": "application/json", "x-bench": bench },
  body,
});

const send = async (bench, body, path = CHAT) => {
  opening ??= open(contender, origin, expires);
  const { fetch, base } = await opening;
  const response = await fetch(base + path, init(bench, body));
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${await response.text()}`);
  return response;
};

/** Reads a body to its end and counts its bytes. */
async function drain(response) {
  const reader = response.body.getReader();
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return bytes;
    bytes += value.length;
  }
}

/**
 * Returns a conversation of about this many bytes: a system prompt and turns of 2 KiB, like a coding agent's. One
 * non-ASCII character doubles the size of the string in JavaScript.
 */
function conversation(size, path, isAscii) {
  const isForResponses = path === "/responses";
  const key = `${size} ${path} ${isAscii}`;
  if (!bodies.has(key)) {
    const line =
      'const answer = await client.fetch("https://…/", { method: "POST" });\n\tif (!answer.ok) throw new Error();\n'.replace(
        "…",
        isAscii ? "qwen.example" : "例",
      );
    const text = line.repeat(Math.ceil(Math.min(2_048, size / 4) / line.length));
    const turns = Math.max(1, Math.round(size / (Buffer.byteLength(JSON.stringify(text)) + 32)) - 1);
    const messages = [{ role: "system", content: text }];
    for (let turn = 0; turn < turns; turn += 1) {
      messages.push({ role: turn % 2 === 0 ? "user" : "assistant", content: text });
    }
    const body = { model: "coder-model", [isForResponses ? "input" : "messages"]: messages };
    bodies.set(key, JSON.stringify(body));
  }
  return bodies.get(key);
}

/** Runs `work` and measures the longest time that it blocks the main thread. */
async function watchingTheLoop(work) {
  let worst = 0;
  let last;
  let isDone = false;
  const tick = () => {
    const now = performance.now();
    worst = Math.max(worst, now - last);
    last = now;
    if (!isDone) setImmediate(tick);
  };
  last = performance.now();
  const result = work();
  tick();
  await result;
  isDone = true;
  return Math.max(worst, performance.now() - last);
}

async function elapsed(work) {
  const started = performance.now();
  const result = await work();
  return { ms: performance.now() - started, result };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function collect() {
  if (typeof globalThis.Bun === "object") globalThis.Bun.gc(true);
  else globalThis.gc?.();
}

const MIB = 1024 * 1024;

/** Measures the largest resident size while something runs. */
function watchMemory() {
  let peak = process.memoryUsage.rss();
  const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 20);
  return () => {
    clearInterval(timer);
    return Math.max(peak, process.memoryUsage.rss());
  };
}

const commands = {
  async open() {
    await send("small");
  },

  /** Sends requests one after another and returns the time of each. */
  async latency({ count }) {
    const times = [];
    for (let index = 0; index < count; index += 1) {
      times.push((await elapsed(async () => (await send("small")).text())).ms * 1_000);
    }
    times.sort((a, b) => a - b);
    return { us: times[times.length >> 1] };
  },

  /** Sends `count` requests in all from `width` callers. */
  async requests({ count, width }) {
    let left = count;
    const caller = async () => {
      while (left > 0) {
        left -= 1;
        await (await send("small")).text();
      }
    };
    const { ms } = await elapsed(() => Promise.all(Array.from({ length: width }, caller)));
    return { perSecond: count / (ms / 1_000) };
  },

  async bytes({ mib }) {
    const { ms, result } = await elapsed(async () => drain(await send(`bytes:${mib}`)));
    if (result !== mib * MIB) throw new Error(`${result} bytes instead of ${mib} MiB`);
    return { mbPerSecond: (mib * MIB) / 1e6 / (ms / 1_000) };
  },

  async events({ count }) {
    const { ms } = await elapsed(async () => drain(await send(`events:${count}`, STREAM_BODY)));
    return { perSecond: count / (ms / 1_000) };
  },

  async body({ size, path, isAscii = true }) {
    const body = conversation(size, path, isAscii);
    const { ms } = await elapsed(async () => (await send("small", body, path)).text());
    return { ms };
  },

  async blocked({ size, path, isAscii = true }) {
    const body = conversation(size, path, isAscii);
    await pause(20);
    const ms = await watchingTheLoop(async () => (await send("small", body, path)).text());
    return { ms };
  },

  /**
   * Readers take one chunk and then stop, while the server sends without end. A contender that buffers everything is
   * stopped at 1 GiB, so its figure is a minimum.
   */
  async idle({ streams, forMs }) {
    await send("small");
    collect();
    await pause(200);
    const before = process.memoryUsage.rss();
    const readers = [];
    for (let index = 0; index < streams; index += 1) {
      const reader = (await send("endless")).body.getReader();
      await reader.read();
      readers.push(reader);
    }
    const held = () => (process.memoryUsage.rss() - before) / MIB;
    const until = performance.now() + forMs;
    while (performance.now() < until && held() < 1024) await pause(10);
    const mib = held() / streams;
    for (const reader of readers) void reader.cancel().catch(() => {});
    return { mib };
  },

  /** Measures from a reader's cancel until the server has reported the closed socket. */
  async cancel({ count }) {
    const watcher = createConnection(Number(new URL(origin).port), "127.0.0.1");
    watcher.setNoDelay(true);
    watcher.write("GET /watch HTTP/1.1\r\n\r\n");
    const closed = new Map();
    let hear;
    createInterface({ input: watcher }).on("line", (key) => {
      closed.set(Number(key), performance.now());
      hear?.();
    });
    const times = [];
    for (let index = 0; index < count; index += 1) {
      const key = Math.floor(Math.random() * 1e9);
      const reader = (await send(`hold:${key}`)).body.getReader();
      await reader.read();
      await pause(5);
      const started = performance.now();
      void reader.cancel().catch(() => {});
      const deadline = pause(1_000);
      while (!closed.has(key)) {
        const heard = new Promise((resolve) => (hear = resolve));
        if ((await Promise.race([heard, deadline.then(() => "late")])) === "late") break;
      }
      times.push(closed.has(key) ? closed.get(key) - started : Number.POSITIVE_INFINITY);
    }
    watcher.destroy();
    times.sort((a, b) => a - b);
    const ms = times[times.length >> 1];
    return { ms: Number.isFinite(ms) ? ms : null };
  },

  /** Reads many streams at once, each to its end. */
  async gather({ streams, mib }) {
    await send("small");
    collect();
    await pause(200);
    const before = process.memoryUsage.rss();
    const cpuBefore = process.cpuUsage();
    const peak = watchMemory();
    const one = async () => drain(await send(`gather:${streams},${mib}`));
    const { ms, result } = await elapsed(() => Promise.all(Array.from({ length: streams }, one)));
    const cpu = process.cpuUsage(cpuBefore);
    const megabytes = (streams * mib * MIB) / 1e6;
    return {
      complete: result.filter((bytes) => bytes === mib * MIB).length,
      cpuUsPerMb: (cpu.user + cpu.system) / megabytes,
      mbPerSecond: megabytes / (ms / 1_000),
      peakMib: (peak() - before) / MIB,
    };
  },

  /** Sends calls that all find an expired token. */
  async refresh({ calls }) {
    const outcomes = await elapsed(() =>
      Promise.allSettled(
        Array.from(
          { length: calls },
          async () => (await elapsed(async () => (await send("small")).text())).ms,
        ),
      ),
    );
    const answered = outcomes.result.filter(({ status }) => status === "fulfilled");
    return {
      answered: answered.length,
      slowestMs: Math.max(0, ...answered.map(({ value }) => value)),
      reason: outcomes.result.find(({ status }) => status === "rejected")?.reason.message,
    };
  },
};

const reply = (value) => process.stdout.write(`${MARK}${JSON.stringify(value)}\n`);

createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const { command, ...options } = JSON.parse(line);
    try {
      reply({ value: (await commands[command](options)) ?? null });
    } catch (error) {
      reply({ error: [error.message, error.cause?.message].filter(Boolean).join(": ") });
    }
  })
  .on("close", () => process.exit(0));
reply({ value: "ready" });
