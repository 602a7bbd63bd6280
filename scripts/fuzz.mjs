// Fuzzes the readers of outside input: `npm run fuzz`, optionally with names of targets and `--seconds 60` for the time
// of each. Failing inputs are stored in fuzz/artifacts.
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cargoTool } from "./cargo-tool.mjs";
import { exitCode, root, run } from "./tasks.mjs";

const all = readdirSync(join(root, "fuzz/targets")).map((name) => name.replace(/\.rs$/, ""));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: "string", default: "60" } },
});
const unknown = positionals.filter((name) => !all.includes(name));
if (unknown.length > 0 || !(Number(values.seconds) > 0)) {
  console.error(`usage: npm run fuzz -- [--seconds 60] [${all.join("] [")}]`);
  process.exit(2);
}

const program = await cargoTool("cargo-fuzz");
// Coverage needs a nightly compiler, or a stable one with this variable.
const env = { RUSTC_BOOTSTRAP: "1" };
// The core has no unsafe code for a sanitizer to check.
const build = ["--sanitizer", "none", "--fuzz-dir", "fuzz", "--target-dir", "target/fuzz"];
await run(program, ["build", ...build], { env });
const failed = [];
for (const name of positionals.length > 0 ? positionals : all) {
  console.log(`\n${name}, ${values.seconds} s`);
  // New inputs go to a separate directory; the repository only has chosen ones.
  const found = join("target/fuzz/corpus", name);
  mkdirSync(join(root, found), { recursive: true });
  const limits = [
    `-max_total_time=${values.seconds}`,
    "-timeout=10",
    "-max_len=4096",
    "-print_final_stats=1",
  ];
  const corpora = [found, join("fuzz/corpus", name)];
  const code = await exitCode(program, ["run", ...build, name, ...corpora, "--", ...limits], { env });
  if (code !== 0) failed.push(name);
}
if (failed.length > 0) console.error(`\nFound something in: ${failed.join(", ")}.`);
process.exit(failed.length === 0 ? 0 : 1);
