// Builds the addon for a target on Linux with x64: `npm run build:target <target>`. Writes it to the folder of the
// target's package, npm/<target>/, and checks it.
import { delimiter, join } from "node:path";
import { RELEASE, buildEnvironment, install, targetDirectory } from "./cargo.mjs";
import { checkAddon } from "./check-addon.mjs";
import {
  crossDirectory,
  emptyLibnode,
  macosFrameworks,
  standardLibrary,
  zigPrograms,
} from "./cross/tools.mjs";
import { addonName, targetNamed } from "./targets.mjs";
import { root, run } from "./tasks.mjs";

const target = targetNamed(process.argv[2]);
const zig = await zigPrograms();
const rust = await standardLibrary(target.crossTriple);
const build = ["rustc", ...RELEASE, "--target", target.zigTriple, ...rust.args];
await run("cargo-zigbuild", build, {
  env: {
    ...rust.env,
    ...(await buildEnvironment(flagsFor(target))),
    ...(target.os === "win32" && { LIBNODE_PATH: emptyLibnode() }),
    PATH: [zig, rust.programs, process.env.PATH].filter(Boolean).join(delimiter),
    CARGO_ZIGBUILD_CACHE_DIR: join(crossDirectory, "cargo-zigbuild"),
  },
});
const addon = join(root, "npm", target.name, addonName(target));
install(join(targetDirectory, target.crossTriple, "release", target.library), addon);
await checkAddon(target, addon);

/** Returns the flags for rustc. For macOS, stand-ins replace Apple's frameworks. */
function flagsFor({ os, flags, name }) {
  if (os !== "darwin") return flags;
  return [
    ...flags,
    `-Lframework=${macosFrameworks()}`,
    `-Clink-arg=-Wl,-install_name,@rpath/${addonName({ name })}`,
    "-Cstrip=none",
    "-Clink-arg=-Wl,-S,-x",
  ];
}
