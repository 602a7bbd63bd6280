// Installs, builds and runs all tests: `npm test`.
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { holdsSecret } from "../__test__/support/leaks.mjs";
import { ensureDependencies, exitCode, root, run, timed } from "./tasks.mjs";

const END_TO_END = "__test__/e2e";
const REAL_CLI = "__test__/real-cli";

/** Tests mostly wait for sockets and processes, so more of them than cores run at once. */
const AT_ONCE = 2 * availableParallelism();
/** Milliseconds until a test file counts as hung. On a loaded machine some files take several minutes. */
const LONGEST_FILE_MS = 480_000;
/** Options of the test runner. */
const RUNNER = [
  "--test",
  `--test-concurrency=${AT_ONCE}`,
  `--test-timeout=${LONGEST_FILE_MS}`,
  `--test-reporter=${process.stdout.isTTY ? "spec" : "tap"}`,
];

/** Bytes of output that are searched again with the next piece. Longer than the prefix of a secret. */
const MARGIN = 200;

const specs = (directory) =>
  readdirSync(join(root, directory))
    .filter((name) => name.endsWith(".spec.mjs"))
    .map((name) => join(directory, name));

async function installAll(directories) {
  for (const directory of directories) await ensureDependencies(directory);
}

/** Searches the output for secrets that the tests' servers have issued. */
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

const failed = new Set();

async function runSuite(name, command, args, options) {
  const search = searchSecrets();
  const code = await timed(`${name} tests`, () =>
    exitCode(command, args, { ...options, onOutput: search.look }),
  );
  if (code !== 0) failed.add(name);
  if (search.found()) {
    console.error(`\nThe output of the ${name} tests holds a secret of the local server's.`);
    failed.add(name);
  }
}

async function testRust() {
  const args = ["test", "--locked", "--workspace", "--", `--test-threads=${AT_ONCE}`];
  await runSuite("Rust", "cargo", args, { isHeld: true });
}

async function testNode() {
  await runSuite("Node and Bun", process.execPath, [...RUNNER, ...specs("__test__")]);
}

// A build without optimization shares its crates with the Rust tests. The workflows try the build that is published.
await timed("Install and build", () =>
  Promise.all([
    installAll([".", END_TO_END, REAL_CLI]),
    run(process.execPath, ["scripts/build.mjs", "--dev"]),
  ]),
);
// These tests mostly wait, and OpenCode computes.
await Promise.all([testRust(), testNode()]);
// The longest begin first: versions and streams.
await runSuite("OpenCode", process.execPath, [...RUNNER, ...specs(END_TO_END).toSorted().toReversed()]);
if (failed.size > 0) console.error(`\nFailed: ${[...failed].join(", ")} tests.`);
process.exit(failed.size === 0 ? 0 : 1);
