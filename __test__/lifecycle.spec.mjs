import assert from "node:assert/strict";
import { cpSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { inChild, RUNTIMES, startChild } from "./support/child.mjs";
import { chat, EXPIRED, gate, midway, setUp, temporaryHome, until } from "./support/harness.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const CALLS = process.env.TEST_STRESS ? 150_000 : 50_000;
const WORKER = fileURLToPath(new URL("support/worker-program.mjs", import.meta.url));
const withoutProc = process.platform === "linux" ? false : "threads and files are counted in /proc";

/** Matches a chat by its last message. */
const saying = (word) => (entry) => JSON.stringify(entry.body.messages).includes(word);

for (const runtime of Object.keys(RUNTIMES)) {
  const workers = runtime === "node" ? 50 : 10;

  test(
    `${runtime}: ${workers} workers that end during calls leave nothing behind`,
    { skip: withoutProc },
    async (t) => {
      const set = await setUp(t);
      set.server.script("chat", [
        { do: "stall", after: 2, match: saying("stall"), times: Infinity },
        { do: "hang", match: saying("hang"), times: Infinity },
      ]);
      const child = startChild(
        t,
        runtime,
        async ({ load, report, data }) => {
          const { Worker } = await import("node:worker_threads");
          const { readdirSync, readFileSync, readlinkSync } = await import("node:fs");
          const run = async (ending) => {
            const worker = new Worker(data.program, { workerData: { client: data.client, ending } });
            const ended = new Promise((resolve) => worker.once("exit", resolve));
            const failed = new Promise((_, reject) => worker.once("error", reject));
            await Promise.race([failed, new Promise((resolve) => worker.once("message", resolve))]);
            if (ending === "terminate") await worker.terminate();
            await Promise.race([failed, ended]);
          };
          const read = (reader, path) => {
            try {
              return String(reader(path)).trim();
            } catch {
              return "";
            }
          };
          const count = () => {
            const names = readdirSync("/proc/self/task").map((id) =>
              read(readFileSync, `/proc/self/task/${id}/comm`),
            );
            const links = readdirSync("/proc/self/fd").map((id) => read(readlinkSync, `/proc/self/fd/${id}`));
            // JavaScriptCore starts and ends helper threads at any time.
            const isEngines = (name) => /^(?:HeapHelper|JITWorker|Bun Pool.*|.*Signal Sender)$/.test(name);
            return {
              ours: names.filter((name) => name.startsWith("qwen-auth")).length,
              threads: names.filter((name) => !name.startsWith("qwen-auth") && !isEngines(name)).length,
              // Bun keeps the event loops of its workers in any case.
              files: links.filter((link) => link && !link.startsWith("anon_inode:")).length,
            };
          };
          const client = (await load()).createClient(data.client);
          await client.accounts();
          await run("terminate");
          const before = count();
          const endings = ["terminate", "exit", "close"];
          for (let started = 0; started < data.workers; started += 5) {
            await Promise.all([0, 1, 2, 3, 4].map((index) => run(endings[(started + index) % 3])));
          }
          let after = count();
          for (let round = 0; round < 100; round += 1) {
            if (after.threads <= before.threads && after.files <= before.files) break;
            await new Promise((resolve) => setTimeout(resolve, 100));
            after = count();
          }
          await client.getAccessToken();
          report({ before, after });
        },
        { data: { client: set.settings, program: WORKER, workers } },
      );
      const { before, after } = await child.report(0);
      // One thread for the network, and the pool for files.
      assert.ok(after.ours <= 65, `${after.ours} threads of ours`);
      assert.ok(after.threads <= before.threads, `threads: ${before.threads} before, ${after.threads} after`);
      assert.ok(after.files <= before.files, `files: ${before.files} before, ${after.files} after`);
      await child.end();
      const isOpen = (entry) => entry.endpoint === "chat" && entry.finishedAt === undefined;
      await until(() => !set.server.requests.some(isOpen), "the server's sockets are closed");
    },
  );

  test(`${runtime}: a worker that is terminated during a refresh loses no token`, async (t) => {
    const set = await setUp(t, { token: EXPIRED });
    const old = set.home.read();
    const { open, step } = gate();
    set.server.script("token", [step]);
    const child = startChild(
      t,
      runtime,
      async ({ report, told, data }) => {
        const { Worker } = await import("node:worker_threads");
        const worker = new Worker(data.program, { workerData: { client: data.client } });
        await told();
        await worker.terminate();
        report("terminated");
        await told();
      },
      { data: { client: set.settings, program: WORKER } },
    );
    await set.server.waitFor("token");
    child.tell();
    await child.report();
    open();
    await until(() => set.home.read().access_token !== old.access_token, "the token is written");
    assert.ok(set.server.issued.includes(set.home.read().refresh_token));
    child.tell();
    await child.end();
  });

  test(`${runtime}: a process without open work ends`, async (t) => {
    const set = await setUp(t);
    const endings = {
      "an unread response": async (client, chat) => void (await chat()),
      "an open unread stream": async (client, chat) => {
        const reader = (await chat()).body.getReader();
        await reader.read();
        globalThis.reader = reader;
      },
      "a closed client": async (client, chat) => {
        void chat()
          .then((response) => response.text())
          .catch(() => {});
        client.close();
      },
      "an aborted call": async (client, chat) => {
        const controller = new AbortController();
        const asked = chat({ signal: controller.signal }).catch(() => {});
        controller.abort();
        await asked;
      },
      "an answer": async (client) => void (await client.getAccessToken()),
      "a failure": async (client) => void (await client.fetch("https://example.com").catch(() => {})),
    };
    set.server.script("chat", [{ do: "flood", bytes: 1e9, times: Infinity }]);
    for (const [what, ending] of Object.entries(endings)) {
      const child = startChild(
        t,
        runtime,
        async ({ load, report, ask, revive, data }) => {
          const client = (await load()).createClient(data.client);
          const chat = (init) => ask(client, "hi", { stream: true }, init);
          await revive(data.ending)(client, chat);
          globalThis.client = client;
          report("done");
        },
        { data: { client: set.settings, ending: String(ending) } },
      );
      await child.report();
      await child.end(5000).catch((error) => assert.fail(`${what}: ${error.message}`));
    }
  });

  test(`${runtime}: no result is lost if many arrive together`, async (t) => {
    const { settings } = await setUp(t);
    const child = startChild(
      t,
      runtime,
      async ({ load, report, data }) => {
        const client = (await load()).createClient(data.client);
        let left = data.calls;
        const caller = async () => {
          while (left > 0) {
            left -= 1;
            await client.getAccessToken();
          }
        };
        await Promise.all(Array.from({ length: data.callers }, caller));
        report("all are here");
      },
      { data: { client: settings, calls: CALLS, callers: 16 } },
    );
    assert.equal(await child.report(0), "all are here");
  });

  test(`${runtime}: a process waits for its open call`, async (t) => {
    const set = await setUp(t);
    set.server.script("chat", [{ do: "delay", ms: 500 }]);
    const result = await inChild(
      t,
      runtime,
      async ({ load, report, ask, data }) => {
        const client = (await load()).createClient(data);
        ask(client, "hi")
          .then((response) => response.json())
          .then((body) => report(body.choices[0].message.content));
      },
      { data: set.settings },
    );
    assert.equal(result, "You said: hi");
  });

  test(
    `${runtime}: importing loads no native code; a client starts no thread`,
    { skip: withoutProc },
    async (t) => {
      const home = temporaryHome(t);
      const seen = await inChild(
        t,
        runtime,
        async ({ load, report, data }) => {
          const { readdirSync, readFileSync } = await import("node:fs");
          const look = () => ({
            native: readFileSync("/proc/self/maps", "utf8").includes("opencode-qwen-cli-auth"),
            threads: readdirSync("/proc/self/task")
              .map((task) => readFileSync(`/proc/self/task/${task}/comm`, "utf8").trim())
              .filter((name) => name.startsWith("qwen-auth")).length,
            files: readdirSync("/proc/self/fd").length,
          });
          const before = look();
          const { createClient } = await load();
          await import("opencode-qwen-cli-auth");
          const imported = look();
          const client = createClient(data);
          const created = look();
          await client.accounts();
          report({ before, imported, created, called: look() });
        },
        { data: { env: home.env } },
      );
      assert.deepEqual(seen.imported, { native: false, threads: 0, files: seen.before.files });
      assert.deepEqual([seen.created.native, seen.created.threads], [true, 0]);
      assert.ok(seen.called.threads >= 1);
    },
  );

  test(`${runtime}: the package is found by its names, and exports one function`, async (t) => {
    const found = await inChild(t, runtime, async ({ report }) => {
      const { createRequire } = await import("node:module");
      const { join } = await import("node:path");
      const required = createRequire(join(process.cwd(), "spec.js"))("opencode-qwen-cli-auth");
      const imported = await import("opencode-qwen-cli-auth");
      const api = await import("opencode-qwen-cli-auth/api");
      const names = [
        "createClient",
        "fetch",
        "pollDeviceToken",
        "refreshAccessToken",
        "requestDeviceAuthorization",
      ];
      report({
        own: Object.keys(required),
        plugin: required.default === required.QwenAuthPlugin && typeof required.default,
        required: names.filter((name) => typeof required[name] !== "function"),
        api: names.filter((name) => typeof api[name] !== "function"),
        imported: names.filter((name) => typeof imported[name] !== "function"),
      });
    });
    assert.deepEqual(found.own, ["default"]);
    assert.equal(found.plugin, "function");
    assert.deepEqual([found.required, found.api], [[], []]);
    if (runtime === "node") assert.deepEqual(found.imported, []);
  });
}

test("without its native part the package loads, and every call says how to fix it", async (t) => {
  const { home } = temporaryHome(t);
  const copy = join(home, "node_modules", "opencode-qwen-cli-auth");
  mkdirSync(copy, { recursive: true });
  for (const name of ["package.json", "index.js", "index.mjs", "binding.js", "lib"]) {
    cpSync(join(ROOT, name), join(copy, name), { recursive: true });
  }
  const errors = await inChild(
    t,
    "node",
    async ({ report, data }) => {
      const { createRequire } = await import("node:module");
      const qwen = createRequire(data.from)("opencode-qwen-cli-auth");
      const calls = [
        async () => qwen.createClient(),
        () => qwen.fetch("https://x.example"),
        () => qwen.requestDeviceAuthorization(),
        () => qwen.refreshAccessToken("r"),
      ];
      const caught = calls.map((call) =>
        call().catch(({ name, code, message }) => ({ name, code, message })),
      );
      report(await Promise.all(caught));
    },
    { data: { from: join(home, "spec.js") } },
  );
  for (const { name, code, message } of errors) {
    assert.deepEqual([name, code], ["QwenAuthError", "ERR_QWEN_NATIVE_BINDING"]);
    assert.match(message, /Install/);
  }
});

test("the package's fetch uses one client, made at the first call", async (t) => {
  const set = await setUp(t);
  const answers = await inChild(
    t,
    "node",
    async ({ load, report, data }) => {
      const { fetch } = await load();
      Object.assign(process.env, data.env);
      const ask = async () => (await fetch(`${data.base}/models`)).status;
      report([await ask(), await ask()]);
    },
    {
      data: {
        base: set.server.apiBaseUrl,
        env: { ...set.home.env, OPENCODE_QWEN_BASE_URL: set.server.url },
      },
    },
  );
  assert.deepEqual(answers, [200, 200]);
  assert.equal(set.server.stats.connections, 1);
});

test("closing a client closes its connections", async (t) => {
  const { server, client } = await setUp(t);
  await (await chat(client, "hi")).text();
  const stream = await chat(client, "SAY 100000", { stream: true });
  await stream.body.getReader().read();
  assert.ok(server.stats.openSockets > 0);
  client.close();
  await until(() => server.stats.openSockets === 0, "the end of every connection");
});

test("a refresh outlives its callers and its client", async (t) => {
  const { server, home, client, open } = await midway(t);
  const before = home.bytes();
  const controller = new AbortController();
  const { signal } = controller;
  const aborted = [client.getAccessToken({ signal }), chat(client, "hi", {}, { signal })];
  const left = client.getAccessToken();
  await server.waitFor("token");
  controller.abort();
  client.close();
  await Promise.all([...aborted, left].map((call) => assert.rejects(call, { name: "AbortError" })));
  assert.deepEqual(home.bytes(), before);
  open();
  await until(() => !home.bytes().equals(before), "the token is written");
  assert.ok(server.issued.includes(home.read().refresh_token));
  const files = ["oauth_creds.flock", "oauth_creds.json"].join();
  await until(() => home.files().join() === files, "the lock is released");
  assert.deepEqual([server.stats.redemptions, server.stats.chats, server.stats.closedByClient], [1, 0, 0]);
});
