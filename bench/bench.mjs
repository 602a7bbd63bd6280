// Measures this package beside the runtime's own fetch, in turns, in one process: `npm run bench`. Figures are ratios of
// medians; nothing is asserted.
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { performance } from "node:perf_hooks";

const { createClient } = createRequire(import.meta.url)("../index.js");

const ROUNDS = 5;
const SMALL_REQUESTS = 100;
const CHUNK = Buffer.alloc(16 * 1024, "x");
const CHUNKS = 1_024;
const FAR_FUTURE_S = 24 * 3_600;

/** Plays the token endpoint, a small answer and a large one. */
function startServer() {
  const server = createServer((request, response) => {
    request.resume();
    request.on("end", async () => {
      if (request.url.endsWith("/token")) {
        const token = { access_token: "bench", refresh_token: "bench", expires_in: FAR_FUTURE_S };
        response.end(JSON.stringify({ ...token, resource_url: `http://127.0.0.1:${server.address().port}` }));
      } else if (request.url.endsWith("/device/code")) {
        const pages = { verification_uri: "http://127.0.0.1/", expires_in: 60, interval: 0 };
        response.end(JSON.stringify({ device_code: "bench", user_code: "bench", ...pages }));
      } else if (request.url.endsWith("/large")) {
        for (let count = 0; count < CHUNKS; count += 1) {
          if (!response.write(CHUNK)) await new Promise((resolve) => response.once("drain", resolve));
        }
        response.end();
      } else {
        response.end("{}");
      }
    });
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

const small = (url) => async (send) => {
  for (let count = 0; count < SMALL_REQUESTS; count += 1) {
    await (await send(`${url}/chat/completions`, { method: "POST", body: '{"model":"coder-model"}' })).text();
  }
};

const parallel = (url, width) => async (send) => {
  const one = small(url);
  await Promise.all(Array.from({ length: width }, () => one(send)));
};

const large = (url) => async (send) => {
  const response = await send(`${url}/large`);
  for await (const chunk of response.body) void chunk;
};

async function timed(work, send) {
  const started = performance.now();
  await work(send);
  return performance.now() - started;
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

async function compare(name, work, ours, theirs) {
  await timed(work, ours);
  await timed(work, theirs);
  const times = { ours: [], theirs: [] };
  for (let round = 0; round < ROUNDS; round += 1) {
    times.ours.push(await timed(work, ours));
    times.theirs.push(await timed(work, theirs));
  }
  const [own, floor] = [median(times.ours), median(times.theirs)];
  const spread = `${Math.min(...times.ours).toFixed(0)}-${Math.max(...times.ours).toFixed(0)}`;
  return {
    measure: name,
    "ours ms": own.toFixed(0),
    "our spread": spread,
    "fetch ms": floor.toFixed(0),
    speed: (floor / own).toFixed(2),
  };
}

const home = mkdtempSync(join(tmpdir(), "qwen-bench-"));
const server = await startServer();
const origin = `http://127.0.0.1:${server.address().port}`;
const client = createClient({
  env: { HOME: home, USERPROFILE: home },
  oauth: { baseUrl: origin },
  baseUrl: origin,
});
try {
  await client.login({ openBrowser: false });
  const url = client.baseUrl;
  const rows = [
    await compare(`${SMALL_REQUESTS} small requests, one at a time`, small(url), client.fetch, fetch),
    await compare(`8 x ${SMALL_REQUESTS} small requests`, parallel(url, 8), client.fetch, fetch),
    await compare(
      `${(CHUNKS * CHUNK.length) / 2 ** 20} MiB in chunks of 16 KiB`,
      large(url),
      client.fetch,
      fetch,
    ),
  ];
  console.table(rows);
  console.log("speed: the runtime's own fetch, without a plugin, is 1; more is quicker.");
} finally {
  client.close();
  server.closeAllConnections();
  server.close();
  rmSync(home, { recursive: true, force: true });
}
