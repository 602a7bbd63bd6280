// Installs the tools for building for other systems on Linux, only from package registries.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { targetDirectory } from "../cargo.mjs";
import { exitCode, root, run } from "../tasks.mjs";

/** Stand-ins for macOS's frameworks. Their symbols are resolved when the addon is loaded. */
const FRAMEWORKS = ["CoreFoundation", "Security", "SystemConfiguration"];

export const crossDirectory = join(targetDirectory, "cross");

/** The file with the version and the SHA-256 of each Python package of a tool. */
export const requirements = (tool) => join(root, "scripts/tools", `${tool}.txt`);

/** Options for `pip install` that accept only those packages. */
export const pinned = (tool) => [
  "--quiet",
  "--disable-pip-version-check",
  "--no-deps",
  "--only-binary=:all:",
  "--require-hashes",
  ...["-r", requirements(tool)],
];

/**
 * Installs a tool from Python packages into its own folder.
 *
 * @returns {Promise<string>} the folder of its programs
 */
export async function pythonTool(tool) {
  const folder = join(crossDirectory, tool);
  const installed = join(folder, "requirements.txt");
  const wanted = readFileSync(requirements(tool), "utf8");
  if (!existsSync(installed) || readFileSync(installed, "utf8") !== wanted) {
    console.log(`Installing ${tool} ...`);
    await run("python3", ["-m", "venv", folder]);
    await run(join(folder, "bin/pip"), ["install", ...pinned(tool)]);
    writeFileSync(installed, wanted);
  }
  return join(folder, "bin");
}

/** Returns the folder of zig and cargo-zigbuild. */
export const zigPrograms = () => pythonTool("zig");

/**
 * Installs Rust's standard library for a target: prebuilt by rustup, or built from source by Debian's Rust.
 *
 * @returns {Promise<{env: object, args: string[], programs?: string}>} what cargo needs for it, and where cargo is
 */
export async function standardLibrary(triple) {
  if ((await exitCode("rustup", ["target", "add", triple]).catch(() => 1)) === 0)
    return { env: {}, args: [] };
  console.log(`rustup has no standard library for ${triple}; Debian's Rust builds it from its source.`);
  await debianPackages(["rustc-web", "cargo-web", "rust-web-src", "libstd-rust-web-dev"]);
  const env = { RUSTC_BOOTSTRAP: "1", RUSTC: "/usr/bin/rustc", CARGO: "/usr/bin/cargo" };
  return { env, args: ["-Zbuild-std=std,panic_unwind"], programs: "/usr/bin" };
}

/** Installs missing Debian packages, which needs root. */
export async function debianPackages(names) {
  if ((await exitCode("dpkg", ["--status", ...names], { quiet: true })) === 0) return;
  const options = ["install", "--yes", "--no-install-recommends", "--quiet", ...names];
  await run("apt-get", ["update", "--quiet"]);
  await run("apt-get", options, { env: { DEBIAN_FRONTEND: "noninteractive" } });
}

/** Creates a folder of stand-ins for macOS's frameworks. */
export function macosFrameworks() {
  const folder = join(crossDirectory, "frameworks");
  for (const name of FRAMEWORKS) {
    const framework = join(folder, `${name}.framework`);
    mkdirSync(framework, { recursive: true });
    const stub = [
      "--- !tapi-tbd",
      "tbd-version: 4",
      "targets: [x86_64-macos, arm64-macos]",
      `install-name: '/System/Library/Frameworks/${name}.framework/Versions/A/${name}'`,
      "...\n",
    ];
    writeFileSync(join(framework, `${name}.tbd`), stub.join("\n"));
  }
  return folder;
}

/** Creates a folder with an empty `libnode`. napi links it, but Node's functions are resolved at run time. */
export function emptyLibnode() {
  const folder = join(crossDirectory, "libnode");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "libnode.dll"), "");
  writeFileSync(join(folder, "libnode.a"), "!<arch>\n");
  return folder;
}
