// How cargo is called for an addon that is shipped: the same bytes wherever it is built.
import { copyFileSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { root, run } from "./tasks.mjs";

export const targetDirectory = process.env.CARGO_TARGET_DIR ?? join(root, "target");
/** The package of the addon in the workspace. */
export const ADDON = ["--package", "opencode-qwen-cli-auth", "--lib"];
/** For `cargo rustc`. */
export const RELEASE = ["--release", "--locked", ...ADDON];
/** The first one for arm64, and Node 20 wants no older one. */
const OLDEST_MACOS = "11.0";
const cargoHome = process.env.CARGO_HOME ?? join(homedir(), ".cargo");

/**
 * What a build needs in its environment: flags that keep the paths of this machine out of the binary.
 *
 * @param {string[]} [flags] more flags for rustc
 */
export async function buildEnvironment(flags = []) {
  // Where the crates lie is known once they are there.
  await run("cargo", ["fetch", "--locked", "--quiet"]);
  const crates = join(cargoHome, "registry/src");
  // Of those that fit, the last one counts.
  const places = [
    [root, "/source"],
    [targetDirectory, "/target"],
    [cargoHome, "/cargo"],
    // A folder for each registry, named by a hash of its address.
    ...readdirSync(crates).map((name) => [join(crates, name), "/crates"]),
  ];
  const remapped = places.map(([from, to]) => `--remap-path-prefix=${from}=${to}`);
  return {
    CARGO_ENCODED_RUSTFLAGS: [...remapped, ...flags].join("\u001f"),
    MACOSX_DEPLOYMENT_TARGET: OLDEST_MACOS,
    // What C compilers put into it may not depend on the time.
    SOURCE_DATE_EPOCH: "0",
  };
}

/** Puts a file in its place whole: a process that runs has the old one. */
export function install(from, to) {
  mkdirSync(dirname(to), { recursive: true });
  const temporary = `${to}.new`;
  copyFileSync(from, temporary);
  renameSync(temporary, to);
}
