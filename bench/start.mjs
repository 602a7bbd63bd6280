// Measures and prints one start in a new process: `start.mjs <contender> import|start`.
import { performance } from "node:perf_hooks";
import { pathToFileURL } from "node:url";
import { CONTENDERS, startPlugin } from "./contenders.mjs";

const MIB = 1024 * 1024;
const [contender, what] = process.argv.slice(2);

const before = process.memoryUsage.rss();
const started = performance.now();
if (what === "import") {
  const module = await import(pathToFileURL(CONTENDERS[contender].file).href);
  if (typeof (module.default?.default ?? module.default) !== "function") throw new Error("no plugin");
} else {
  await startPlugin(contender, Date.now() + 24 * 3_600_000);
}
const ms = performance.now() - started;
console.log(
  `\u0001bench ${JSON.stringify({ value: { ms, mib: (process.memoryUsage.rss() - before) / MIB } })}`,
);
process.exit(0);
