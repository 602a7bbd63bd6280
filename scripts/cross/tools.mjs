// Installs the tools that build for other systems on Linux, from package registries alone.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { targetDirectory } from "../cargo.mjs";
import { exitCode, root, run } from "../tasks.mjs";

/** Stand-ins for macOS's frameworks, whose symbols are looked up when the addon is loaded. */
const FRAMEWORKS = ["CoreFoundation", "Security", "SystemConfiguration"];

export const crossDirectory = join(targetDirectory, "cross");

/** The file that names the version and the SHA-256 of each Python package that a tool consists of. */
export const requirements = (tool) => join(root, "scripts/tools", `${tool}.txt`);

/** Options for `pip install` that accept those packages alone. */
export const pinned = (tool) => [
  "--quiet",
  "--disable-pip-version-check",
  "--no-deps",
  "--only-binary=:all:",
  "--require-hashes",
  ...["-r", requirements(tool)],
];

/**
 * Installs a tool of Python packages into a folder of its own.
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

/** The folder of zig and of cargo-zigbuild. */
export const zigPrograms = () => pythonTool("zig");

/**
 * Rust's standard library for a target: ready-made by rustup; else Debian's Rust builds it from its source.
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

/** Installs what is missing, which takes root. */
export async function debianPackages(names) {
  if ((await exitCode("dpkg", ["--status", ...names], { quiet: true })) === 0) return;
  const options = ["install", "--yes", "--no-install-recommends", "--quiet", ...names];
  await run("apt-get", ["update", "--quiet"]);
  await run("apt-get", options, { env: { DEBIAN_FRONTEND: "noninteractive" } });
}

/** A folder of frameworks that the linker takes for macOS's. */
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

/** A folder with a `libnode` that has nothing in it: napi asks for one, though what is Node's is looked up at run time. */
export function emptyLibnode() {
  const folder = join(crossDirectory, "libnode");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "libnode.dll"), "");
  writeFileSync(join(folder, "libnode.a"), "!<arch>\n");
  return folder;
}
