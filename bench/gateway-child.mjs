// A proxy in its own process: `gateway` is this package's, `node` is a plain proxy. `idle` measures the cost of an idle
// open gateway over a number of ms. Each line of input is answered with the memory in use, in bytes.
import { Agent, createServer, request } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [kind, origin, idleMs] = process.argv.slice(2);
/** Node returns memory some time after its use. */
const SETTLE_MS = 500;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function openGateway() {
  const client = require("../lib/api.js").createClient();
  const { url, key } = await client.serve();
  return { url, key };
}

async function openProxy() {
  const agent = new Agent({ keepAlive: true });
  const { hostname, port } = new URL(origin);
  const server = createServer((incoming, outgoing) => {
    const { method, headers, url: path } = incoming;
    const onward = request({ agent, hostname, port, method, headers, path }, (answer) => {
      outgoing.writeHead(answer.statusCode, answer.headers);
      answer.pipe(outgoing);
    });
    incoming.pipe(onward);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/v1`, key: "bench" };
}

async function memory() {
  globalThis.gc();
  await pause(SETTLE_MS);
  globalThis.gc();
  return process.memoryUsage.rss();
}

async function idleCpuMs() {
  const before = process.cpuUsage();
  await pause(Number(idleMs));
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

async function measureIdle() {
  const client = require("../lib/api.js").createClient();
  // A client in use, with its runtime and connections.
  await (await client.fetch(`${client.baseUrl}/models`, { headers: { "x-bench": "small" } })).text();
  const withoutMs = await idleCpuMs();
  const before = await memory();
  const gateway = await client.serve();
  const after = await memory();
  const cpuMs = (await idleCpuMs()) - withoutMs;
  await gateway.close();
  return { memoryMib: (after - before) / 1024 / 1024, cpuMs };
}

const open = { gateway: openGateway, node: openProxy, idle: measureIdle };
console.log(JSON.stringify(await open[kind]()));
process.stdin.on("data", () => console.log(process.memoryUsage.rss()));
process.stdin.on("end", () => process.exit(0));
