// Installs, builds and runs all tests: `npm test`.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { holdsSecret } from "../__test__/support/leaks.mjs";
import { ensureDependencies, exitCode, root, run } from "./tasks.mjs";

const END_TO_END = "__test__/e2e";
const REAL_CLI = "__test__/real-cli";

/** Files of one suite run side by side; a test that hangs must not hang the run. */
const RUNNER = [
  "--test",
  "--test-concurrency=2",
  "--test-timeout=180000",
  `--test-reporter=${process.stdout.isTTY ? "spec" : "tap"}`,
];

/** Longer than what a secret is known by. */
const MARGIN = 200;

const specs = (directory) =>
  readdirSync(join(root, directory))
    .filter((name) => name.endsWith(".spec.mjs"))
    .map((name) => join(directory, name));

/** Looks for what the tests' servers have issued, wherever in the output it stands. */
function searchSecrets() {
  let hasFound = false;
  let last = Buffer.alloc(0);
  return {
    look(piece) {
      last = Buffer.concat([last, piece]);
      hasFound ||= holdsSecret(last);
      last = last.subarray(-MARGIN);
    },
    found: () => hasFound,
  };
}

await ensureDependencies();
await ensureDependencies(END_TO_END);
await ensureDependencies(REAL_CLI);
await run(process.execPath, ["scripts/build.mjs"]);
const suites = [
  ["Rust", "cargo", ["test", "--locked", "--no-default-features", "--features", "fault-points"]],
  ["Node and Bun", process.execPath, [...RUNNER, ...specs("__test__")]],
  ["OpenCode", process.execPath, [...RUNNER, ...specs(END_TO_END)]],
];
const failed = new Set();
for (const [name, command, args] of suites) {
  console.log(`\n${name} tests`);
  const search = searchSecrets();
  if ((await exitCode(command, args, { onOutput: search.look })) !== 0) failed.add(name);
  if (search.found()) {
    console.error(`\nThe output of the ${name} tests holds a secret of the local server's.`);
    failed.add(name);
  }
}
if (failed.size > 0) console.error(`\nFailed: ${[...failed].join(", ")} tests.`);
process.exit(failed.size === 0 ? 0 : 1);
