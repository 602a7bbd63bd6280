// Compares the gateway with a plain Node proxy and a native splice that doesn't parse HTTP. The client is a bare
// socket, so that no HTTP library is measured with them.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { targetDirectory } from "../scripts/cargo.mjs";
import { environmentOf, makeHome, removeHome } from "./homes.mjs";
import { summary } from "./stats.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(import.meta.url);
const SPLICE = join(targetDirectory, "release/examples/splice");
const BODY = JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "Hello" }] });
const MIB = 1024 * 1024;
const SETTLE_MS = 1_000;

const FULL = { rounds: 9, requests: 1_000, mib: 128, cancels: 50, idles: 3, idleMs: 10_000, stalled: 100 };
const QUICK = { rounds: 1, requests: 20, mib: 4, cancels: 2, idles: 1, idleMs: 500, stalled: 5 };

/** A persistent connection. `exchange` sends a request and resolves at the end of its answer. */
class Connection {
  #socket;
  #request;
  #end;
  #tail = "";
  #done;

  /** @param {RegExp} end matches the end of an answer */
  static async open({ url, key }, kind, end) {
    const connection = new Connection();
    const { hostname, port, host, pathname } = new URL(`${url}/chat/completions`);
    connection.#end = end;
    connection.#request = Buffer.from(
      [
        `POST ${pathname} HTTP/1.1`,
        `host: ${host}`,
        `authorization: Bearer ${key}`,
        `x-bench: ${kind}`,
        "content-type: application/json",
        `content-length: ${BODY.length}`,
        "",
        BODY,
      ].join("\r\n"),
    );
    connection.#socket = connect(Number(port), hostname).setNoDelay(true);
    connection.#socket.on("data", (bytes) => connection.#read(bytes));
    await once(connection.#socket, "connect");
    return connection;
  }

  #read(bytes) {
    this.#tail = (this.#tail + bytes.latin1Slice(Math.max(0, bytes.length - 400))).slice(-400);
    if (!this.#end.test(this.#tail)) return;
    this.#tail = "";
    this.#done();
  }

  exchange() {
    return new Promise((resolve) => {
      this.#done = resolve;
      this.#socket.write(this.#request);
    });
  }

  /** Sends a request, and reads nothing of its answer. */
  stall() {
    this.#socket.pause();
    this.#socket.write(this.#request);
  }

  close() {
    this.#socket.destroy();
  }
}

/** Starts a program that prints its address as one line. `ask` sends it an empty line and resolves to the answer. */
async function startProgram(command, args, env = process.env) {
  const child = spawn(command, args, { env, stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const { value: line } = await lines.next();
  const ask = async () => {
    child.stdin.write("\n");
    return (await lines.next()).value;
  };
  return { line, ask, stop: () => child.kill() };
}

/** @param {{ server: { origin: string }, isQuick: boolean, record: (entry: object) => void }} options */
export async function measureGateway({ server, isQuick, record }) {
  const size = isQuick ? QUICK : FULL;
  const home = makeHome(server.origin);
  const env = environmentOf(home, server.origin);
  const started = [];
  const start = async (...args) => {
    const program = await startProgram(...args);
    started.push(program);
    return program.line;
  };
  const child = async (kind) =>
    JSON.parse(await start(process.execPath, [join(here, "gateway-child.mjs"), kind, server.origin], env));
  try {
    const direct = { url: `${server.origin}/v1`, key: "bench" };
    const contenders = { direct, gateway: await child("gateway"), "node-proxy": await child("node") };
    if (existsSync(SPLICE)) {
      contenders.splice = { url: `${await start(SPLICE, [new URL(server.origin).host])}/v1`, key: "bench" };
    }
    const { createClient } = require("../lib/api.js");
    const client = createClient({ env });
    await measureLatency(contenders, client, size, record);
    await measureStreams(contenders, size, record);
    await measureCancels(contenders, server, size, record);
    client.close();
    await measureStalled(contenders.gateway, () => started[0].ask(), size, record);
    await measureIdle(env, server, size, record);
  } finally {
    for (const program of started) program.stop();
    removeHome(home);
  }
}

/** Measures from the client's disconnection, during a stream or before its head, to the end of the server's connection. */
async function measureCancels(contenders, server, { cancels }, record) {
  const watch = await watchReports(server.origin);
  // The server's keys are numbers.
  let name = 0;
  // The plain proxy doesn't cancel its request.
  const { "node-proxy": _, ...cancelling } = contenders;
  for (const [contender, address] of Object.entries(cancelling)) {
    for (const [kind, measure] of [
      ["hold", "gateway: cancel to upstream closed"],
      ["silent", "gateway: cancel before the head to upstream closed"],
    ]) {
      const times = [];
      for (let count = 0; count < cancels; count += 1) {
        name += 1;
        const connection = await Connection.open(address, `${kind}:${name}`, /x\r\n$/);
        const [arrived, closed] = [watch.report(`+${name}`), watch.report(`${name}`)];
        const answered = connection.exchange();
        await (kind === "hold" ? answered : arrived);
        const before = performance.now();
        connection.close();
        times.push((await closed) - before);
      }
      record({ measure, contender, unit: "ms", ...summary(times) });
    }
  }
  watch.close();
}

/** Receives the server's reports of held answers. */
async function watchReports(origin) {
  const { hostname, port, host } = new URL(origin);
  const socket = connect(Number(port), hostname);
  await once(socket, "connect");
  socket.write(`GET /watch HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
  const waiting = new Map();
  createInterface({ input: socket }).on("line", (text) => waiting.get(text)?.(performance.now()));
  return {
    report: (text) => new Promise((resolve) => waiting.set(text, resolve)),
    close: () => socket.destroy(),
  };
}

/** Measures the gateway's memory for clients that do not read their streams. */
async function measureStalled(address, memory, { mib, stalled }, record) {
  const before = Number(await memory());
  const connections = [];
  for (let count = 0; count < stalled; count += 1) {
    const connection = await Connection.open(address, `bytes:${mib}`, /$^/);
    connection.stall();
    connections.push(connection);
  }
  let [last, bytes] = [0, before];
  // Until all buffers are full.
  while (bytes > last) {
    last = bytes;
    await setTimeout(SETTLE_MS);
    bytes = Number(await memory());
  }
  for (const connection of connections) connection.close();
  record({
    measure: "gateway: memory of a client that does not read",
    contender: "gateway",
    unit: "MiB",
    median: (bytes - before) / MIB / stalled,
  });
}

/** Measures an idle open gateway in a process with a client. */
async function measureIdle(env, server, { idles, idleMs }, record) {
  const results = [];
  for (let count = 0; count < idles; count += 1) {
    const args = ["--expose-gc", join(here, "gateway-child.mjs"), "idle", server.origin, String(idleMs)];
    const { line, stop } = await startProgram(process.execPath, args, env);
    stop();
    results.push(JSON.parse(line));
  }
  const contender = "gateway";
  const memory = summary(results.map(({ memoryMib }) => memoryMib));
  record({ measure: "gateway: memory while idle", contender, unit: "MiB", ...memory });
  const cpu = summary(results.map(({ cpuMs }) => (cpuMs / idleMs) * 10_000));
  record({ measure: "gateway: CPU in 10 s of idleness", contender, unit: "ms", ...cpu });
}

async function measureLatency(contenders, client, { rounds, requests }, record) {
  const call = async () => {
    const headers = { "content-type": "application/json", "x-bench": "small" };
    await (
      await client.fetch(`${client.baseUrl}/chat/completions`, { method: "POST", headers, body: BODY })
    ).text();
  };
  const callers = { client: { exchange: call, close() {} } };
  for (const [name, contender] of Object.entries(contenders)) {
    callers[name] = await Connection.open(contender, "small", /"total_tokens":2\}\}(\r\n0\r\n\r\n)?$/);
  }
  const medians = Object.fromEntries(Object.keys(callers).map((name) => [name, []]));
  for (let round = 0; round < rounds + 1; round += 1) {
    for (const [name, caller] of Object.entries(callers)) {
      const times = [];
      for (let count = 0; count < requests; count += 1) {
        const before = performance.now();
        await caller.exchange();
        times.push((performance.now() - before) * 1000);
      }
      // The first round warms up.
      if (round > 0) medians[name].push(summary(times).median);
    }
  }
  for (const [contender, values] of Object.entries(medians)) {
    record({ measure: "gateway: small request", contender, unit: "us", ...summary(values) });
  }
  const over = medians.gateway.map((value, round) => value - medians.client[round]);
  record({
    measure: "gateway: small request: over client.fetch",
    contender: "gateway",
    unit: "us",
    ...summary(over),
  });
  for (const caller of Object.values(callers)) caller.close();
}

async function measureStreams(contenders, { rounds, mib }, record) {
  const rates = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]));
  for (let round = 0; round < rounds + 1; round += 1) {
    for (const [name, contender] of Object.entries(contenders)) {
      const connection = await Connection.open(contender, `bytes:${mib}`, /\r\n0\r\n\r\n$/);
      const before = performance.now();
      await connection.exchange();
      const seconds = (performance.now() - before) / 1000;
      if (round > 0) rates[name].push((mib * MIB) / 1e6 / seconds);
      connection.close();
    }
  }
  for (const [contender, values] of Object.entries(rates)) {
    const measure = "gateway: stream, 16 KiB chunks";
    const over = (other) => summary(values.map((value, round) => value / other[round]));
    record({ measure, contender, unit: "MB/s", ...summary(values) });
    if (rates.splice) {
      record({ measure: `${measure}, over the splice's`, contender, unit: "x", ...over(rates.splice) });
    }
    record({ measure: `${measure}: times as good as direct`, contender, unit: "x", ...over(rates.direct) });
  }
}
