// Runs the long tests of many processes, crashes, sleep and long sessions: `npm run test:stress`, about 15 minutes.
import { ensureDependencies, exitCode, run } from "./tasks.mjs";

await ensureDependencies();
await ensureDependencies("__test__/e2e");
await ensureDependencies("__test__/real-cli");
await run(process.execPath, ["scripts/build.mjs"]);
const env = { TEST_STRESS: "1" };
const cargo = ["test", "--locked"];
const runner = ["--test", "--test-concurrency=1", "--test-timeout=1200000"];
const suites = [
  ["Crashes, sleep and safeguards", "cargo", [...cargo, "--test", "reliability", "--", "--include-ignored"]],
  ["Many processes", process.execPath, [...runner, "__test__/stress.spec.mjs"]],
  ["The qwen CLI next door", process.execPath, [...runner, "__test__/real-cli-refresh.spec.mjs"]],
  ["Long sessions", process.execPath, [...runner, "__test__/long-session.spec.mjs"]],
];
const failed = [];
for (const [name, command, args] of suites) {
  console.log(`\n${name}`);
  if ((await exitCode(command, args, { env })) !== 0) failed.push(name);
}
if (failed.length > 0) console.error(`\nFailed: ${failed.join(", ")}.`);
process.exit(failed.length === 0 ? 0 : 1);
