// The performance targets of the package, and whether the results meet them. Only the last table uses them.
import { GATEWAY_CONTENDERS } from "./contenders.mjs";
import { number } from "./report.mjs";

const BUNS = ["bun", "opencode"];

/** @returns {{title: string, measured: string, isMet: boolean | undefined}[]} */
export function judge(results) {
  const find = (runtime, measure, contender) =>
    results.find(
      (entry) => entry.runtime === runtime && entry.measure === measure && entry.contender === contender,
    )?.median;
  const rivals = (runtime, measure) =>
    results.filter(
      (entry) =>
        entry.runtime === runtime &&
        entry.measure === measure &&
        entry.median !== undefined &&
        !["client", "plugin", "fetch", "js-edit", "empty"].includes(entry.contender) &&
        !(entry.contender in GATEWAY_CONTENDERS),
    );
  const times = (measure, reference = "fetch") => `${measure}: times as good as ${reference}`;
  const rows = [];
  const add = (title, value, isMet, unit = "") => {
    if (value === undefined || Number.isNaN(value)) return;
    rows.push({ title, measured: `${number(value)}${unit}`, value, isMet: isMet(value) });
  };
  const atMost = (limit) => (value) => value <= limit;
  const atLeast = (limit) => (value) => value >= limit;

  for (const runtime of BUNS) {
    const name = runtime === "bun" ? "Bun" : "OpenCode's Bun";
    add(`${name}: import, at most 3 ms`, find(runtime, "import", "plugin"), atMost(3), " ms");
    add(
      `${name}: memory it adds, at most 5 MB`,
      find(runtime, "import: memory", "plugin") * 1.048576,
      atMost(5),
      " MB",
    );
    const quickest = Math.min(...rivals(runtime, "import").map(({ median }) => median));
    add(
      `${name}: import, at least 10 times as quick as the quickest peer`,
      quickest / find(runtime, "import", "plugin"),
      atLeast(10),
      "x",
    );
  }
  for (const [runtime, name] of [
    ["node", "Node"],
    ["bun", "Bun"],
    ["opencode", "OpenCode's Bun"],
  ]) {
    const [one, many] = [1, 100].map((accounts) => find(runtime, `start, ${accounts} accounts`, "plugin"));
    add(`${name}: start with 1 account, at most 15 ms`, one, atMost(15), " ms");
    add(`${name}: start with 100 accounts, at most 15 ms`, many, atMost(15), " ms");
    add(`${name}: start with 100 accounts, at most 1.5 times that with 1`, many / one, atMost(1.5), "x");
    add(
      `${name}: added latency of a small request, at most 150 us`,
      find(runtime, "small request: over fetch", "client"),
      atMost(150),
      " us",
    );
  }
  const ratio = (runtime, name, measure, limit) =>
    add(
      `${name}: ${measure}, at least ${limit} times fetch`,
      find(runtime, times(measure), "client"),
      atLeast(limit),
      "x",
    );
  ratio("node", "Node", "requests, 1 at a time", 1);
  ratio("node", "Node", "requests, 8 at a time", 4);
  ratio("node", "Node", "requests, 64 at a time", 5);
  ratio("node", "Node", "stream, 16 KiB chunks", 1.4);
  ratio("node", "Node", "stream, 200 B events", 0.95);
  for (const runtime of BUNS) {
    const name = runtime === "bun" ? "Bun" : "OpenCode's Bun";
    ratio(runtime, name, "stream, 16 KiB chunks", 0.9);
    ratio(runtime, name, "stream, 200 B events", 1);
  }
  for (const [runtime, name] of [
    ["node", "Node"],
    ["bun", "Bun"],
    ["opencode", "OpenCode's Bun"],
  ]) {
    const blocked = "3.5 MB body: main thread blocked";
    const own = find(runtime, blocked, "client");
    add(`${name}: main thread blocked by a 3.5 MB body, at most 2 ms`, own, atMost(2), " ms");
    for (const { contender, median } of rivals(runtime, blocked)) {
      add(`${name}: the same, at most a fifth of ${contender}`, own / median, atMost(0.2), "x");
    }
    const body = (kilobytes) => `body of ${kilobytes} KB`;
    const [small, large] = [find(runtime, body(1_000), "client"), find(runtime, body(30_000), "client")];
    add(
      `${name}: a body 30 times as large (1 to 30 MB), at most 33 times as long`,
      large / small,
      atMost(33),
      "x",
    );
    for (const { contender, median } of rivals(runtime, body(3_500))) {
      add(
        `${name}: request with a 3.5 MB body, at least twice as quick as ${contender}`,
        median / find(runtime, body(3_500), "client"),
        atLeast(2),
        "x",
      );
    }
    add(
      `${name}: memory of an idle reader, at most 1 MiB a stream`,
      find(runtime, "idle", "client"),
      atMost(1),
      " MiB",
    );
    add(
      `${name}: cancel to socket closed, at most 5 ms`,
      find(runtime, "cancel to socket closed", "client"),
      atMost(5),
      " ms",
    );
    const streams = find(runtime, "gather complete", "fetch");
    add(
      `${name}: all streams at once complete`,
      find(runtime, "gather complete", "client"),
      (value) => value >= (streams ?? 0),
      "",
    );
    const cpu = find(runtime, times("gather cpu"), "client");
    add(
      `${name}: CPU of a MB, at most 0.7 times fetch's`,
      1 / cpu,
      runtime === "node" ? atMost(0.7) : () => undefined,
      "x",
    );
    add(
      `${name}: memory with 16 MiB a stream, the same as with 4`,
      find(runtime, "gather memory, 16 times the bytes", "client") /
        find(runtime, "gather memory, 4 times the bytes", "client"),
      atMost(1.25),
      "x",
    );
    const refresh = "64 calls, token expired";
    add(
      `${name}: 64 calls and an expired token, 1 redemption`,
      find(runtime, `${refresh}: redemptions`, "client"),
      (value) => value === 1,
      "",
    );
    add(
      `${name}: the slowest of them, at most 10 ms after the redemption`,
      find(runtime, `${refresh}: slowest call after the redemption`, "client"),
      atMost(10),
      " ms",
    );
    add(
      `${name}: accounts' files opened while they are unchanged, none`,
      find(runtime, "accounts' files opened in 200 requests", "client"),
      (value) => value === 0,
      "",
    );
    add(
      `${name}: a changed file is seen by the next request`,
      find(runtime, "a changed file is seen by the next request", "client"),
      (value) => value === 1,
      "",
    );
  }
  add(
    "Gateway: small request over client.fetch, at most 150 us",
    find("node", "gateway: small request: over client.fetch", "gateway"),
    atMost(150),
    " us",
  );
  add(
    "Gateway: stream of 16 KiB chunks, at least 0.6 times no server in between",
    find("node", "gateway: stream, 16 KiB chunks: times as good as direct", "gateway"),
    atLeast(0.6),
    "x",
  );
  for (const measure of ["cancel", "cancel before the head"]) {
    add(
      `Gateway: ${measure} to upstream closed, at most 50 ms`,
      find("node", `gateway: ${measure} to upstream closed`, "gateway"),
      atMost(50),
      " ms",
    );
  }
  add(
    "Gateway: memory while idle, at most 1 MiB",
    find("node", "gateway: memory while idle", "gateway"),
    atMost(1),
    " MiB",
  );
  add(
    "Gateway: CPU while idle, at most 10 ms in 10 s more than without it",
    find("node", "gateway: CPU in 10 s of idleness", "gateway"),
    atMost(10),
    " ms",
  );
  return rows;
}
