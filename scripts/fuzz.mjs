// Fuzzes what reads input from outside: `npm run fuzz`, with the names of targets to choose some, and with
// `--seconds 60` for the time that each gets. What is found is left in fuzz/artifacts.
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
// Coverage is a feature of nightly compilers; a stable one has it all the same.
const env = { RUSTC_BOOTSTRAP: "1" };
// There is no unsafe code of ours for a sanitizer to watch.
const build = ["--sanitizer", "none", "--fuzz-dir", "fuzz", "--target-dir", "target/fuzz"];
await run(program, ["build", ...build], { env });
const failed = [];
for (const name of positionals.length > 0 ? positionals : all) {
  console.log(`\n${name}, ${values.seconds} s`);
  // What is new goes to a directory of its own: only what was chosen is in the repository.
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
