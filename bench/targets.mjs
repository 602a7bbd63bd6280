// The performance targets of the package, and whether the results meet them. Only the last table uses them.
import { GATEWAY_CONTENDERS } from "./contenders.mjs";
import { number } from "./report.mjs";

const atMost = (limit) => (value) => value <= limit;
const atLeast = (limit) => (value) => value >= limit;
const exactly = (wanted) => (value) => value === wanted;

const NODE = { node: "Node" };
const BUNS = { bun: "Bun", opencode: "OpenCode's Bun" };
const ALL = { ...NODE, ...BUNS };

const GATEWAY = { node: "Gateway" };

const MB_OF_MIB = 1.048576;
const BODY = "body of 3500 KB";
const BLOCKED = "3.5 MB body: main thread blocked";
const REFRESH = "64 calls, token expired";

/** Values of a target: the median of a contender's measure, or a ratio of two. */
const medianOf = (contender, measure) => (found) => found.find(measure, contender);
const client = (measure) => medianOf("client", measure);
const plugin = (measure) => medianOf("plugin", measure);
const gateway = (measure) => medianOf("gateway", `gateway: ${measure}`);
const ratio = (contender, measure, other) => (found) =>
  found.find(measure, contender) / found.find(other, contender);

const overFetch = (runtimes, measure, limit) => [
  runtimes,
  `${measure}, at least ${limit} times fetch`,
  client(`${measure}: times as good as fetch`),
  atLeast(limit),
  "x",
];

/**
 * Runtimes, title, value, condition and unit of each target. A value that is an object has a row for each rival, whose name
 * ends the title. Values that were not measured have no row.
 */
const TARGETS = [
  [BUNS, "import, at most 3 ms", plugin("import"), atMost(3), " ms"],
  [
    BUNS,
    "memory it adds, at most 5 MB",
    ({ find }) => find("import: memory", "plugin") * MB_OF_MIB,
    atMost(5),
    " MB",
  ],
  [
    BUNS,
    "import, at least 10 times as quick as the quickest peer",
    ({ find, rivals }) => Math.min(...Object.values(rivals("import"))) / find("import", "plugin"),
    atLeast(10),
    "x",
  ],
  [ALL, "start with 1 account, at most 15 ms", plugin("start, 1 accounts"), atMost(15), " ms"],
  [ALL, "start with 100 accounts, at most 15 ms", plugin("start, 100 accounts"), atMost(15), " ms"],
  [
    ALL,
    "start with 100 accounts, at most 1.5 times that with 1",
    ratio("plugin", "start, 100 accounts", "start, 1 accounts"),
    atMost(1.5),
    "x",
  ],
  [
    ALL,
    "added latency of a small request, at most 150 us",
    client("small request: over fetch"),
    atMost(150),
    " us",
  ],
  overFetch(NODE, "requests, 1 at a time", 1),
  overFetch(NODE, "requests, 8 at a time", 4),
  overFetch(NODE, "requests, 64 at a time", 5),
  overFetch(NODE, "stream, 16 KiB chunks", 1.4),
  overFetch(NODE, "stream, 200 B events", 0.95),
  overFetch(BUNS, "stream, 16 KiB chunks", 0.9),
  overFetch(BUNS, "stream, 200 B events", 1),
  [ALL, "main thread blocked by a 3.5 MB body, at most 2 ms", client(BLOCKED), atMost(2), " ms"],
  [
    ALL,
    "the same, at most a fifth of ",
    ({ find, compare }) => compare(BLOCKED, (median) => find(BLOCKED, "client") / median),
    atMost(0.2),
    "x",
  ],
  [
    ALL,
    "a body 30 times as large (1 to 30 MB), at most 33 times as long",
    ratio("client", "body of 30000 KB", "body of 1000 KB"),
    atMost(33),
    "x",
  ],
  [
    ALL,
    "request with a 3.5 MB body, at least twice as quick as ",
    ({ find, compare }) => compare(BODY, (median) => median / find(BODY, "client")),
    atLeast(2),
    "x",
  ],
  [ALL, "memory of an idle reader, at most 1 MiB a stream", client("idle"), atMost(1), " MiB"],
  [ALL, "cancel to socket closed, at most 5 ms", client("cancel to socket closed"), atMost(5), " ms"],
  [
    ALL,
    "all streams at once complete",
    client("gather complete"),
    (value, { find }) => value >= (find("gather complete", "fetch") ?? 0),
  ],
  [
    NODE,
    "CPU of a MB, at most 0.7 times fetch's",
    ({ find }) => 1 / find("gather cpu: times as good as fetch", "client"),
    atMost(0.7),
    "x",
  ],
  [
    ALL,
    "memory with 16 MiB a stream, the same as with 4",
    ratio("client", "gather memory, 16 times the bytes", "gather memory, 4 times the bytes"),
    atMost(1.25),
    "x",
  ],
  [ALL, "64 calls and an expired token, 1 redemption", client(`${REFRESH}: redemptions`), exactly(1)],
  [
    ALL,
    "the slowest of them, at most 10 ms after the redemption",
    client(`${REFRESH}: slowest call after the redemption`),
    atMost(10),
    " ms",
  ],
  [
    ALL,
    "accounts' files opened while they are unchanged, none",
    client("accounts' files opened in 200 requests"),
    exactly(0),
  ],
  [
    ALL,
    "a changed file is seen by the next request",
    client("a changed file is seen by the next request"),
    exactly(1),
  ],
  [
    GATEWAY,
    "small request over client.fetch, at most 150 us",
    gateway("small request: over client.fetch"),
    atMost(150),
    " us",
  ],
  [
    GATEWAY,
    "stream of 16 KiB chunks, at least 0.6 times no server in between",
    gateway("stream, 16 KiB chunks: times as good as direct"),
    atLeast(0.6),
    "x",
  ],
  [
    GATEWAY,
    "cancel to upstream closed, at most 50 ms",
    gateway("cancel to upstream closed"),
    atMost(50),
    " ms",
  ],
  [
    GATEWAY,
    "cancel before the head to upstream closed, at most 50 ms",
    gateway("cancel before the head to upstream closed"),
    atMost(50),
    " ms",
  ],
  [
    GATEWAY,
    "memory of a client that does not read, at most 2 MiB",
    gateway("memory of a client that does not read"),
    atMost(2),
    " MiB",
  ],
  [GATEWAY, "memory while idle, at most 1 MiB", gateway("memory while idle"), atMost(1), " MiB"],
  [
    GATEWAY,
    "CPU while idle, at most 10 ms in 10 s more than without it",
    gateway("CPU in 10 s of idleness"),
    atMost(10),
    " ms",
  ],
];

/** Contenders that are not rivals of the client and the plugin. */
const OWN = ["client", "plugin", "fetch", "js-edit", "empty", ...Object.keys(GATEWAY_CONTENDERS)];

/** Lookups in the results of a runtime. */
function lookup(results, runtime) {
  const of = (measure) => results.filter((entry) => entry.runtime === runtime && entry.measure === measure);
  const find = (measure, contender) => of(measure).find((entry) => entry.contender === contender)?.median;
  const rivals = (measure) =>
    Object.fromEntries(
      of(measure)
        .filter(({ contender, median }) => median !== undefined && !OWN.includes(contender))
        .map(({ contender, median }) => [contender, median]),
    );
  const compare = (measure, ratio) =>
    Object.fromEntries(
      Object.entries(rivals(measure)).map(([contender, median]) => [contender, ratio(median)]),
    );
  return { runtime, find, rivals, compare };
}

/** @returns {{title: string, measured: string, value: number, isMet: boolean | undefined}[]} */
export function judge(results) {
  const rows = [];
  for (const [runtimes, title, measure, isMet, unit = ""] of TARGETS) {
    for (const [runtime, name] of Object.entries(runtimes)) {
      const found = lookup(results, runtime);
      const measured = measure(found);
      const values = typeof measured === "object" ? measured : { "": measured };
      for (const [rival, value] of Object.entries(values)) {
        if (value === undefined || Number.isNaN(value)) continue;
        rows.push({
          title: `${name}: ${title}${rival}`,
          measured: `${number(value)}${unit}`,
          value,
          isMet: isMet(value, found),
        });
      }
    }
  }
  return rows;
}
