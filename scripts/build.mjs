// Builds the addon for this machine: `npm run build`. `-- --dev` builds quickly without optimization. `-- --package`
// builds for publishing into the folder of the package, and checks it.
import { join } from "node:path";
import { ADDON, RELEASE, buildEnvironment, install, targetDirectory } from "./cargo.mjs";
import { checkAddon } from "./check-addon.mjs";
import { addonName, hostTarget } from "./targets.mjs";
import { root, run } from "./tasks.mjs";

const [isDev, isPackage] = ["--dev", "--package"].map((option) => process.argv.includes(option));
const target = hostTarget();
await run("cargo", isDev ? ["build", "--locked", ...ADDON] : ["rustc", ...RELEASE], {
  env: isDev ? {} : await buildEnvironment(target.flags),
});
const built = join(targetDirectory, isDev ? "debug" : "release", target.library);
if (isPackage) {
  const addon = join(root, "npm", target.name, addonName(target));
  install(built, addon);
  await checkAddon(target, addon);
} else {
  install(built, join(root, addonName(target)));
}
