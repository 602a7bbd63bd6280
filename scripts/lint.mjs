// All that can be checked without running anything: `npm run lint`.
import { ensureDependencies, exitCode } from "./tasks.mjs";

const TESTS = ["--no-default-features", "--features", "fault-points"];

await ensureDependencies();
const checks = [
  ["cargo", ["fmt", "--check"]],
  // The binding is checked as it is built; the tests as they are built, which is without it.
  ["cargo", ["clippy", "--locked", "--lib", "--", "--deny", "warnings"]],
  ["cargo", ["clippy", "--locked", ...TESTS, "--all-targets", "--", "--deny", "warnings"]],
  [process.execPath, ["scripts/deny.mjs"]],
  [process.execPath, ["scripts/manifests.mjs", "--check"]],
  [process.execPath, ["scripts/catalog.mjs", "--check"]],
  ["npx", ["prettier", "--check", "--log-level", "warn", "."]],
  ["npx", ["oxlint", "--deny-warnings"]],
  ["npx", ["tsc", "--project", "tsconfig.json"]],
];
let failed = 0;
for (const [command, args] of checks) {
  const code = await exitCode(command, args);
  if (code !== 0) failed += 1;
  console.log(`${code === 0 ? "ok    " : "FAILED"} ${command} ${args.join(" ")}`);
}
process.exit(failed === 0 ? 0 : 1);
