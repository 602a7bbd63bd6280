// Compares this package with the runtime's own fetch and other Qwen plugins from npm, on Node, on Bun and on the Bun
// inside OpenCode: `npm run bench`. Nothing is asserted. Absolute figures depend on the machine, so compare ratios.
//
//   --quick            a short form that only shows that everything runs
//   --runtimes a,b     of node, bun, opencode
//   --only a,b         of start, latency, requests, bytes, events, blocked, body, cancel, idle, gather, refresh, lookup, gateway
//   --docs             writes the figures and plots into docs/
//   --no-build         takes the addon as it is
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ensureDependencies, readJson, root, run } from "../scripts/tasks.mjs";
import { measureGateway } from "./gateway.mjs";
import { measureRuntime } from "./measures.mjs";
import { writePlots } from "./plots.mjs";
import { markdown, number, printTables } from "./report.mjs";
import { judge } from "./targets.mjs";
import { RUNTIMES, findRuntimes, startServer } from "./workers.mjs";

const { values: options } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    docs: { type: "boolean", default: false },
    runtimes: { type: "string" },
    "no-build": { type: "boolean", default: false },
    only: { type: "string" },
  },
});

if (!options.quick) {
  await ensureDependencies("bench");
  if (!options["no-build"]) {
    await run(process.execPath, ["scripts/build.mjs"]);
    await run("cargo", [
      "build",
      "--release",
      "--locked",
      "--package",
      "qwen-client",
      "--example",
      "bare_reqwest",
      "--example",
      "splice",
    ]);
  }
}
const usual = options.quick ? "node,opencode" : "node,bun,opencode";
await findRuntimes((options.runtimes ?? usual).split(","));

const results = [];
const machine = () => ({ load: loadavg()[0] });
const report = {
  version: readJson("package.json").version,
  date: new Date().toISOString().slice(0, 10),
  cpu: cpus()[0]?.model.trim(),
  cores: cpus().length,
  platform: `${process.platform}-${process.arch}`,
  loadBefore: machine().load,
  runtimes: Object.fromEntries(Object.entries(RUNTIMES).map(([name, { title }]) => [name, title])),
};
function record(entry) {
  results.push(entry);
  if (entry.median === undefined || options.quick) return;
  console.error(`  ${entry.measure} · ${entry.contender}: ${number(entry.median)} ${entry.unit}`);
}

const server = await startServer();
try {
  for (const runtime of Object.keys(RUNTIMES)) {
    await measureRuntime({
      runtime,
      server,
      isQuick: options.quick,
      only: options.only?.split(","),
      record,
      log: (what) => console.error(`${RUNTIMES[runtime].title}: ${what}`),
    });
  }
  if (options.only === undefined || options.only.split(",").includes("gateway")) {
    console.error("gateway");
    await measureGateway({
      server,
      isQuick: options.quick,
      record: (entry) => record({ runtime: "node", ...entry }),
    });
  }
} finally {
  server.stop();
}
Object.assign(report, { loadAfter: machine().load, targets: judge(results), results });

printTables(report);
const directory = join(root, "bench/results");
mkdirSync(directory, { recursive: true });
const file = join(directory, "latest.json");
writeFileSync(file, `${JSON.stringify(rounded(report), null, 1)}\n`);
if (options.docs) {
  writePlots(report, join(root, "docs"));
  writeFileSync(join(root, "docs/bench.md"), markdown(report));
}
console.log(`\nAll figures: ${file}`);

/** None of these figures is accurate to more than four digits. */
function rounded(value) {
  if (typeof value === "number") return Number(value.toPrecision(4));
  if (Array.isArray(value)) return value.map(rounded);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, rounded(inner)]));
}
