// Builds the committed source twice, in folders with different names and lengths, and compares the addons: `node
// scripts/reproduce.mjs [target]`. Builds as for a release; on Linux with `build:target`.
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addonName, hostTarget, targetNamed } from "./targets.mjs";
import { run } from "./tasks.mjs";

const [, , name] = process.argv;
const target = name ? targetNamed(name) : hostTarget();
const build =
  process.platform === "linux"
    ? ["scripts/build-target.mjs", target.name]
    : ["scripts/build.mjs", "--package"];
const base = mkdtempSync(join(tmpdir(), "qwen-reproduce-"));
const hashes = [];
try {
  for (const place of ["a", "another/place"]) {
    const folder = join(base, place);
    await run("git", ["clone", "--quiet", ".", folder]);
    await run(process.execPath, build, {
      cwd: folder,
      env: { CARGO_TARGET_DIR: join(base, `target-of-${place}`) },
    });
    const addon = readFileSync(join(folder, "npm", target.name, addonName(target)));
    hashes.push(createHash("sha256").update(addon).digest("hex"));
    console.log(`${hashes.at(-1)}  ${folder}`);
  }
} finally {
  rmSync(base, { recursive: true, force: true });
}
console.log(hashes[0] === hashes[1] ? "The two are the same." : "The two differ.");
process.exit(hashes[0] === hashes[1] ? 0 : 1);
