// A session of 200 streams at once in one process, with every possible end of a stream. `npm run test:stress`
// runs it for minutes.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import test from "node:test";
import { recordOf, storeOf } from "./support/accounts.mjs";
import { RUNTIMES, startChild } from "./support/child.mjs";
import { startServer, temporaryHome, until } from "./support/harness.mjs";
import { SECRET_PREFIX } from "./support/qwen-server.mjs";

const SECONDS = process.env.TEST_STRESS ? 180 : 5;
const STREAMS = 200;
const MIB = 1024 * 1024;

/** Runs in its own process, so that the server's memory doesn't count. */
async function session({ load, report, ask: send, data }) {
  const { readdirSync } = await import("node:fs");
  const { baseUrl, home, seconds, streams, seed } = data;
  const qwen = await load();
  const client = qwen.createClient({
    env: { HOME: home, USERPROFILE: home },
    oauth: { baseUrl },
    quotaCooldownMs: 200,
    degrade: false,
  });
  let state = seed;
  /** A pseudo-random number from 0 to below `limit`, the same in every run. */
  const random = (limit) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const counts = {};
  const problems = [];
  const count = (name) => (counts[name] = (counts[name] ?? 0) + 1);
  let number = 0;

  const ask = (...request) => send(client, ...request);
  const words = (many) => Array.from({ length: many }, (_, index) => `word${index + 1}`).join(" ");
  const said = (text) => {
    const events = text.split("\n\n").filter(Boolean);
    const last = events.pop();
    if (last !== "data: [DONE]") throw new Error(`ends with ${last?.slice(0, 80)}`);
    return events.map((event) => JSON.parse(event.slice(6)).choices[0]?.delta.content ?? "").join("");
  };
  /** Text of a good answer, or undefined if every account is out of quota. */
  const good = async (response) => {
    const text = await response.text();
    if (response.status === 429) return undefined;
    if (response.status !== 200) throw new Error(`status ${response.status}: ${text.slice(0, 200)}`);
    return text;
  };
  const mustBe = (given, expected) => {
    if (given !== undefined && given !== expected) {
      throw new Error(`${given.length} characters instead of ${expected.length}: ${given.slice(-80)}`);
    }
  };

  const kinds = {
    async stream(id) {
      const many = 1 + random(300);
      const text = await good(await ask(`${id} SAY ${many}`, { stream: true }));
      mustBe(text && said(text), words(many));
    },
    async whole(id) {
      const many = 1 + random(300);
      const text = await good(await ask(`${id} SAY ${many}`));
      mustBe(text && JSON.parse(text).choices[0].message.content, words(many));
    },
    async slowReader(id) {
      const many = 200 + random(600);
      const response = await ask(`${id} SAY ${many}`, { stream: true });
      if (response.status !== 200) return good(response);
      const decoder = new TextDecoder();
      let text = "";
      for await (const chunk of response.body) {
        text += decoder.decode(chunk, { stream: true });
        if (random(8) === 0) await pause(random(10));
      }
      mustBe(said(text), words(many));
    },
    async cancelled(id) {
      const response = await ask(`${id} SAY 5000 SLOWLY`, { stream: true });
      const reader = response.body.getReader();
      for (let left = random(4); left > 0; left -= 1) await reader.read();
      await reader.cancel();
    },
    async unread(id) {
      const response = await ask(`${id} SAY 5000 SLOWLY`, { stream: true });
      await response.body.cancel();
    },
    async aborted(id) {
      const controller = new AbortController();
      setTimeout(() => controller.abort(), random(60));
      try {
        const response = await ask(`${id} SAY 5000 SLOWLY`, { stream: true }, { signal: controller.signal });
        await response.text();
        if (response.status !== 429) throw new Error("an aborted request has ended well");
      } catch (error) {
        if (error.name !== "AbortError") throw error;
      }
    },
    async stalled(id) {
      const signal = AbortSignal.timeout(50 + random(200));
      try {
        const response = await ask(`${id} SAY 50 STALL`, { stream: true }, { signal });
        await response.text();
        if (response.status !== 429) throw new Error("a stalled stream has ended well");
      } catch (error) {
        if (error.name !== "TimeoutError") throw error;
      }
    },
    async cut(id) {
      try {
        const response = await ask(`${id} SAY 50 CUT`, { stream: true });
        await response.text();
        if (response.status !== 429) throw new Error("a stream that was cut has ended well");
      } catch (error) {
        if (error.code !== "ERR_QWEN_NETWORK") throw error;
      }
    },
    async refusedToken(id) {
      const text = await good(await ask(`${id} SAY 20 REFUSE`, { stream: true }));
      mustBe(text && said(text), words(20));
    },
    async usedUpQuota(id) {
      const text = await good(await ask(`${id} SAY 20 QUOTA`, { stream: true }));
      mustBe(text && said(text), words(20));
    },
  };
  const names = ["stream", "stream", "stream", "whole", "slowReader", ...Object.keys(kinds)];
  const end = Date.now() + seconds * 1000;
  const resources = () => ({
    rss: process.memoryUsage().rss,
    handles: readdirSync("/proc/self/fd").length,
    threads: readdirSync("/proc/self/task").length,
  });
  const before = resources();
  const samples = [];
  const sampling = (async () => {
    while (Date.now() < end) {
      await pause(Math.min(500, seconds * 50));
      globalThis.gc?.();
      samples.push(resources());
    }
  })();
  const underWay = new Set();
  const worker = async () => {
    while (Date.now() < end && problems.length < 5) {
      const name = names[random(names.length)];
      number += 1;
      const id = `#${number}`;
      underWay.add(`${name} ${id}`);
      try {
        await kinds[name](id);
        count(name);
      } catch (error) {
        problems.push(`${name} ${id}: ${error.code ?? error.name} ${error.message}`);
      }
      underWay.delete(`${name} ${id}`);
    }
  };
  const work = Promise.all(Array.from({ length: streams }, worker));
  let watchdog;
  const late = new Promise((resolve) => (watchdog = setTimeout(resolve, seconds * 1000 + 30_000)));
  await Promise.race([work, late]);
  clearTimeout(watchdog);
  for (const call of underWay) problems.push(`${call} has no end`);
  await sampling;
  client.close();
  const settled = Date.now() + 5000;
  while (Date.now() < settled && resources().handles > before.handles + 8) await pause(50);
  report({ counts, problems, before, samples, after: resources() });
}

const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];

/** Medians of the first and the last third, after the warm-up. */
function trend(samples, name) {
  const values = samples.slice(Math.floor(samples.length / 4)).map((sample) => sample[name]);
  const third = Math.ceil(values.length / 3);
  return { early: median(values.slice(0, third)), late: median(values.slice(-third)) };
}

for (const runtime of Object.keys(RUNTIMES)) {
  test(
    `${runtime}: ${STREAMS} streams at once keep their bytes and leave nothing behind`,
    {
      skip: !existsSync("/proc/self/fd") && "handles are counted in /proc",
      timeout: SECONDS * 1000 + 120_000,
    },
    async (t) => {
      const server = await startServer(t, { accounts: ["alice", "bob", "carol"], keepRequests: 500 });
      const texts = new WeakMap();
      const asks = (word) => (entry) => {
        if (!texts.has(entry)) texts.set(entry, JSON.stringify(entry.body?.messages ?? ""));
        return texts.get(entry).includes(word);
      };
      const refused = new Set();
      let spoilt;
      let calmAt = 0;
      // A call survives one refusal. The refused token is spoilt for all calls, which share its renewal. The next is
      // spoilt only after that.
      const isFirstRefusal = (entry) => {
        if (!asks("REFUSE")(entry)) return false;
        const id = /#\d+/.exec(texts.get(entry))[0];
        if (id === spoilt) {
          spoilt = undefined;
          calmAt = Date.now() + 300;
        }
        if (spoilt !== undefined || Date.now() < calmAt || refused.has(id)) return false;
        refused.add(id);
        spoilt = id;
        return true;
      };
      const always = { times: Infinity };
      server.script("chat", [
        { do: "stall", after: 3, match: asks("STALL"), ...always },
        { do: "cut", after: 3, match: asks("CUT"), ...always },
        { do: "token_rejected", match: isFirstRefusal, ...always },
        { do: "quota", account: "alice", match: asks("QUOTA"), ...always },
        { do: "ok", pace: 5, match: asks("SLOWLY"), ...always },
      ]);
      const home = temporaryHome(t);
      const tokens = ["alice", "bob", "carol"].map((account) => server.issueToken({ account }));
      home.write(tokens[0]);
      storeOf(home).write({
        version: 1,
        activeAccountId: "alice",
        accounts: ["alice", "bob", "carol"].map((id, index) => recordOf(id, tokens[index])),
      });
      const child = startChild(t, runtime, session, {
        data: { baseUrl: server.url, home: home.home, seconds: SECONDS, streams: STREAMS, seed: 20_261_124 },
        args: runtime === "node" ? ["--expose-gc"] : [],
      });
      const [{ counts, problems, before, samples, after }] = await child.end(SECONDS * 1000 + 90_000);
      t.diagnostic(JSON.stringify({ counts, before, after, stats: server.stats }));
      assert.deepEqual(problems, []);
      assert.equal(Object.keys(counts).length, 10, `not everything was tried: ${JSON.stringify(counts)}`);
      assert.equal(server.stats.doubleRedemptions, 0);
      assert.deepEqual(server.failures, []);

      const most = (name) => Math.max(...samples.map((sample) => sample[name]));
      // Sockets of ended streams may still be closing.
      assert.ok(most("handles") <= before.handles + 2 * STREAMS, `${most("handles")} handles`);
      assert.ok(most("rss") <= before.rss + 200 * MIB, `${most("rss") / MIB} MiB`);
      // Memory that is warm after a minute must not grow further.
      for (const name of SECONDS >= 60 ? ["rss", "handles", "threads"] : []) {
        const { early, late } = trend(samples, name);
        assert.ok(late <= early * 1.1 + 16, `${name} grow from ${early} to ${late}`);
      }
      // Six threads of the async runtime, two ends of the signal pipe, and sockets that are about to close.
      assert.ok(after.handles <= before.handles + 12, `${before.handles} handles became ${after.handles}`);
      await until(() => server.stats.openSockets === 0, "the end of every connection");
      for (const name of home
        .files()
        .filter((file) => !/^(?:oauth_(?:creds|accounts)|opencode_qwen_usage)\.json$/.test(file))) {
        assert.match(name, /\.flock$/, `${name} was left`);
      }
      const stored = home.read();
      assert.ok(stored.access_token.startsWith(SECRET_PREFIX));
    },
  );
}
