// Runs all static checks: `npm run lint`.
import { ensureDependencies, exitCode, timed } from "./tasks.mjs";

await ensureDependencies();
const rustChecks = [
  ["cargo", ["fmt", "--check"]],
  // `--all-targets` would also check the addon as a test, which it can't be outside Node.
  ["cargo", ["clippy", "--locked", "--lib", "--tests", "--examples", "--", "--deny", "warnings"]],
  [process.execPath, ["scripts/deny.mjs"]],
];
const otherChecks = [
  [process.execPath, ["scripts/manifests.mjs", "--check"]],
  [process.execPath, ["scripts/catalog.mjs", "--check"]],
  [process.execPath, ["scripts/pictures.mjs", "--check"]],
  ["npx", ["prettier", "--check", "--log-level", "warn", "."]],
  ["npx", ["oxlint", "--deny-warnings"]],
  ["npx", ["tsc", "--project", "tsconfig.json"]],
  ["npx", ["tsc", "--project", "tsconfig.lib.json"]],
];
let failed = 0;

async function runInOrder(checks) {
  for (const [command, args] of checks) {
    const name = `${command} ${args.join(" ")}`;
    const code = await timed(name, () => exitCode(command, args, { isHeld: true }));
    if (code !== 0) failed += 1;
    console.log(`${code === 0 ? "ok    " : "FAILED"} ${name}`);
  }
}

await Promise.all([rustChecks, otherChecks].map(runInOrder));
process.exit(failed === 0 ? 0 : 1);
