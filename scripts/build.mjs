// Builds the native addon for this machine: `npm run build`, or `npm run build -- --dev` for a quick unoptimized one.
import { ensureDependencies, run } from "./tasks.mjs";

await ensureDependencies();
const profile = process.argv.includes("--dev") ? [] : ["--release"];
// The types that the tool generates describe the binding, not the package; index.d.ts is written by hand.
await run("npx", [
  "napi",
  "build",
  "--platform",
  "--no-js",
  "--dts",
  "target/binding.d.ts",
  ...profile,
  "--",
  "--locked",
]);
