// Installs, builds and runs all tests: `npm test`.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { ensureDependencies, exitCode, root, run } from "./tasks.mjs";

const END_TO_END = "__test__/e2e";
const REAL_CLI = "__test__/real-cli";

/** Files of one suite run side by side; a test that hangs must not hang the run. */
const RUNNER = ["--test", "--test-concurrency=2", "--test-timeout=180000"];

const specs = (directory) =>
  readdirSync(join(root, directory))
    .filter((name) => name.endsWith(".spec.mjs"))
    .map((name) => join(directory, name));

await ensureDependencies();
await ensureDependencies(END_TO_END);
await ensureDependencies(REAL_CLI);
await run(process.execPath, ["scripts/build.mjs"]);
const suites = [
  ["Rust", "cargo", ["test", "--locked", "--no-default-features", "--features", "fault-points"]],
  ["Node and Bun", process.execPath, [...RUNNER, ...specs("__test__")]],
  ["OpenCode", process.execPath, [...RUNNER, ...specs(END_TO_END)]],
];
const failed = [];
for (const [name, command, args] of suites) {
  console.log(`\n${name} tests`);
  if ((await exitCode(command, args)) !== 0) failed.push(name);
}
if (failed.length > 0) console.error(`\nFailed: ${failed.join(", ")} tests.`);
process.exit(failed.length === 0 ? 0 : 1);
