// A process that is told to end during a refresh keeps the login.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { RUNTIMES, startChild } from "./support/child.mjs";
import { EXPIRED, midway, setUp } from "./support/harness.mjs";

/** A program that refreshes its token, in its main thread or in a worker, and ends as told. */
async function program({ load, report, told, data }) {
  const { inWorker, ending, settings } = data;
  const { createClient } = await load();
  const stay = setInterval(() => {}, 1_000);
  const controller = new AbortController();
  let worker;
  if (inWorker) {
    const { Worker } = await import("node:worker_threads");
    const text = `
      const { workerData, parentPort } = require("node:worker_threads");
      const client = require("opencode-qwen-cli-auth/api").createClient(workerData);
      client.getAccessToken().catch(() => {});
      setInterval(() => {}, 1_000);
      parentPort.on("message", () => process.exit(3));`;
    worker = new Worker(text, { eval: true, workerData: settings });
    worker.on("error", (error) => report(String(error)));
  } else
    createClient(settings)
      .getAccessToken({ signal: controller.signal })
      .catch(() => {});
  if (ending === "handler") process.on("SIGINT", () => process.exit(7));
  const listener = () => {};
  if (ending === "removed listener") process.on("SIGINT", listener);
  await told();
  if (ending === "removed listener") {
    // The runtime resets the signal to its default, until the refresh looks again.
    process.off("SIGINT", listener);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  if (ending === "added listener") {
    // It ends the process at once, and without an exit handler.
    process.on("SIGINT", () => process.kill(process.pid, "SIGKILL"));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  report("ends");
  if (ending === "abort") {
    controller.abort();
    clearInterval(stay);
  }
  if (ending === "exit") process.exit(7);
  if (ending === "terminate") await worker.terminate();
  // oxlint-disable-next-line require-post-message-target-origin -- a thread has no origin
  if (ending === "worker exits") worker.postMessage("exit");
  if (worker) worker.unref();
  if (ending === "terminate" || ending === "worker exits") clearInterval(stay);
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2"];
const ENDINGS = [
  ...SIGNALS.map((signal) => ({ name: signal, signals: [signal], ended: { code: null, signal } })),
  { name: "SIGINT twice", signals: ["SIGINT", "SIGINT"], ended: { code: null, signal: "SIGINT" } },
  { name: "a handler of SIGINT", ending: "handler", signals: ["SIGINT"], ended: { code: 7, signal: null } },
  {
    name: "SIGINT after the last listener is removed",
    ending: "removed listener",
    signals: ["SIGINT"],
    ended: { code: null, signal: "SIGINT" },
  },
  {
    name: "SIGINT after a listener is added",
    ending: "added listener",
    signals: ["SIGINT"],
    ended: { code: null, signal: "SIGKILL" },
  },
  { name: "a call that was given up", ending: "abort", ended: { code: 0, signal: null } },
  { name: "exit", ending: "exit", ended: { code: 7, signal: null } },
  {
    name: "SIGTERM and a worker",
    inWorker: true,
    signals: ["SIGTERM"],
    ended: { code: null, signal: "SIGTERM" },
  },
  { name: "exit and a worker", inWorker: true, ending: "exit", ended: { code: 7, signal: null } },
  { name: "terminate", inWorker: true, ending: "terminate", ended: { code: 0, signal: null } },
  { name: "a worker's exit", inWorker: true, ending: "worker exits", ended: { code: 0, signal: null } },
];
/** Signals that end a process if it has no handler for them. */
const RARE = ["SIGALRM", "SIGXCPU", "SIGPROF", "SIGVTALRM", "SIGIO", "SIGPWR", "SIGSTKFLT"];
/** Bun handles this one itself. */
const HANDLED = { bun: ["SIGPWR"] };
const skip = process.platform === "win32" && "Windows has no signals";
const notLinux = process.platform !== "linux" && "they are Linux's";

/** Ends a process during a refresh that the server answers afterwards. */
async function endMidway(t, runtime, { inWorker, ending, signals = [] }) {
  const set = await midway(t);
  const { server, home, open } = set;
  const before = home.read().refresh_token;
  const data = { inWorker, ending, settings: set.settings };
  const child = startChild(t, runtime, program, { data });
  await server.waitFor("token");
  child.tell();
  assert.equal(await child.report(), "ends");
  for (const signal of signals) {
    child.kill(signal);
    await sleep(100);
  }
  setTimeout(open, 500);
  const ended = await child.ended;
  return { ended, server, home, before, after: home.read().refresh_token };
}

for (const runtime of Object.keys(RUNTIMES)) {
  for (const { name, ended: expected, ...ending } of ENDINGS) {
    test(`${runtime}: ${name} during a refresh loses no login`, { skip }, async (t) => {
      const { ended, server, home, before, after } = await endMidway(t, runtime, ending);
      assert.notEqual(after, before);
      assert.ok(server.issued.includes(after));
      assert.equal(server.stats.redemptions, 1);
      // An exit may come before the lock file is removed.
      if (ended.code === 0) assert.deepEqual(home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
      assert.deepEqual(ended, expected);
    });
  }

  test(`${runtime}: no rare signal during a refresh loses a login`, { skip: skip || notLinux }, async (t) => {
    for (const signal of RARE.filter((name) => !HANDLED[runtime]?.includes(name))) {
      const { ended, server, before, after } = await endMidway(t, runtime, { signals: [signal] });
      assert.ok(after !== before && server.issued.includes(after), signal);
      assert.equal(ended.signal, signal);
    }
  });

  test(`${runtime}: SIGTERM while the answer arrives loses no login`, { skip }, async (t) => {
    const set = await setUp(t, { token: EXPIRED });
    const before = set.home.read().refresh_token;
    set.server.script("token", [{ do: "drip", ms: 20, bytes: 4 }]);
    const child = startChild(t, runtime, program, { data: { settings: set.settings } });
    await set.server.waitFor("token");
    await sleep(200);
    assert.equal(set.home.read().refresh_token, before);
    child.kill("SIGTERM");
    assert.deepEqual(await child.ended, { code: null, signal: "SIGTERM" });
    assert.ok(set.server.issued.includes(set.home.read().refresh_token));
    assert.notEqual(set.home.read().refresh_token, before);
  });

  test(`${runtime}: a silent server does not keep a process alive forever`, { skip }, async (t) => {
    const set = await midway(t);
    const data = { settings: set.settings };
    const child = startChild(t, runtime, program, { data });
    await set.server.waitFor("token");
    child.kill("SIGTERM");
    assert.deepEqual(await child.ended, { code: null, signal: "SIGTERM" });
    set.open();
  });

  test(`${runtime}: usage of an ended worker is written`, { skip }, async (t) => {
    const set = await setUp(t);
    const child = startChild(
      t,
      runtime,
      async ({ told, report, data }) => {
        const { Worker } = await import("node:worker_threads");
        const text = `
          const { workerData, parentPort } = require("node:worker_threads");
          const client = require("opencode-qwen-cli-auth/api").createClient(workerData);
          const body = JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "hello" }] });
          const headers = { "content-type": "application/json" };
          client.fetch(client.baseUrl + "/chat/completions", { method: "POST", headers, body })
            .then((response) => response.text()).then(() => parentPort.postMessage("answered"));`;
        const worker = new Worker(text, { eval: true, workerData: data });
        await new Promise((resolve) => worker.once("message", resolve));
        report("answered");
        await told();
        process.exit(0);
      },
      { data: set.settings },
    );
    await child.report();
    child.tell();
    await child.end();
    const [{ today }] = await set.client.usage();
    assert.equal(today.requests, 1);
  });
}

test("SIGKILL, which can't be delayed, loses the login", { skip }, async (t) => {
  const { after, before, ended } = await endMidway(t, "node", { signals: ["SIGKILL"] });
  assert.equal(after, before);
  assert.deepEqual(ended, { code: null, signal: "SIGKILL" });
});
