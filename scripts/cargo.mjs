// Calls cargo for a release build, which gives the same bytes on every machine.
import { copyFileSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { root, run } from "./tasks.mjs";

export const targetDirectory = process.env.CARGO_TARGET_DIR ?? join(root, "target");
/** The package of the addon in the workspace. */
export const ADDON = ["--package", "opencode-qwen-cli-auth", "--lib"];
/** Arguments for `cargo rustc`. */
export const RELEASE = ["--release", "--locked", ...ADDON];
/** The first macOS version for arm64, and the oldest for Node 20. */
const OLDEST_MACOS = "11.0";
const cargoHome = process.env.CARGO_HOME ?? join(homedir(), ".cargo");

/**
 * Returns the environment of a build. Its flags keep the paths of this machine out of the binary.
 *
 * @param {string[]} [flags] more flags for rustc
 */
export async function buildEnvironment(flags = []) {
  // The paths of the crates are known after they are fetched.
  await run("cargo", ["fetch", "--locked", "--quiet"]);
  const crates = join(cargoHome, "registry/src");
  // If several prefixes match, the last one counts.
  const places = [
    [root, "/source"],
    [targetDirectory, "/target"],
    [cargoHome, "/cargo"],
    // Each registry has a folder named by a hash of its address.
    ...readdirSync(crates).map((name) => [join(crates, name), "/crates"]),
  ];
  const remapped = places.map(([from, to]) => `--remap-path-prefix=${from}=${to}`);
  return {
    CARGO_ENCODED_RUSTFLAGS: [...remapped, ...flags].join("\u001f"),
    MACOSX_DEPLOYMENT_TARGET: OLDEST_MACOS,
    // Output of C compilers must not depend on the time.
    SOURCE_DATE_EPOCH: "0",
  };
}

/** Replaces a file atomically. A running process keeps the old one. */
export function install(from, to) {
  mkdirSync(dirname(to), { recursive: true });
  const temporary = `${to}.new`;
  copyFileSync(from, temporary);
  renameSync(temporary, to);
}
