// Runs the core of the suite (login, streams, locks, files) with the addon of a target: `npm run test:target <target>`,
// after `npm run build:target <target>`. Further arguments choose other files in __test__.
import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { crossDirectory } from "./cross/tools.mjs";
import { runtimeFor } from "./cross/runtimes.mjs";
import { CORE_SPECS, addonName, hostTarget, targetNamed } from "./targets.mjs";
import { exitCode, readJson, root } from "./tasks.mjs";

const target = targetNamed(process.argv[2]);
const addon = join(root, "npm", target.name, addonName(target));
if (!existsSync(addon)) {
  console.error(`${addon} is missing. Run \`npm run build:target ${target.name}\`.`);
  process.exit(1);
}
const runtime = await runtimeFor(target);
if (runtime === undefined) {
  console.error(`${target.name} can't be run here; the release workflow tests it on a system of its own.`);
  process.exit(1);
}
const folder = stage();
const specs = process.argv.length > 3 ? process.argv.slice(3) : CORE_SPECS;
const failed = [];
for (const spec of specs) {
  console.log(`\n${target.name}: ${spec}`);
  const args = ["--import", "./runtime.mjs", `__test__/${spec}.spec.mjs`];
  const code = await exitCode(runtime.command, args, { cwd: folder, env: runtime.env });
  if (code !== 0) failed.push(spec);
}
console.log(
  failed.length === 0 ? `\n${target.name}: all passed` : `\n${target.name}: failed: ${failed.join(", ")}`,
);
process.exit(failed.length === 0 ? 0 : 1);

/** Creates a checkout with only this addon. */
function stage() {
  const stage = join(crossDirectory, "stage", target.name);
  rmSync(stage, { recursive: true, force: true });
  mkdirSync(stage, { recursive: true });
  const isOurs = (path) => !relative(root, path).split(/[/\\]/).includes("node_modules");
  for (const name of [...readJson("package.json").files, "package.json", "__test__", "catalog"]) {
    cpSync(join(root, name), join(stage, name), { recursive: true, filter: isOurs });
  }
  cpSync(addon, join(stage, addonName(target)));
  // Tests start further Node processes. If Node is a script around an emulator, they find it by its name.
  const isEmulated = target.cpu !== hostTarget().cpu;
  const preload = isEmulated ? `process.execPath = ${JSON.stringify(runtime.command)};\n` : "";
  writeFileSync(join(stage, "runtime.mjs"), preload);
  return stage;
}
