// The target systems and all differences between them. Packages, the release workflow, builds and tests use this list
// or are checked against it.
import { createRequire } from "node:module";

const { platformTarget } = createRequire(import.meta.url)("../binding.js");

export const NAME = "opencode-qwen-cli-auth";

/** The specs that run with the addon of each target. */
export const CORE_SPECS = ["oauth", "requests", "credentials", "managing", "streams", "process-ends"];

/**
 * @typedef {object} Target
 * @property {string} name in the names of its package and of its addon
 * @property {string} triple Rust's target for a release build
 * @property {string} crossTriple Rust's target for a build on Linux
 * @property {string} zigTriple the same, with the oldest supported glibc
 * @property {string} library file name of the library that cargo builds
 * @property {string[]} flags for rustc
 * @property {string} os @property {string} cpu @property {string} [libc] for npm
 */

const linux = (cpu, arch, libc, env) => ({
  name: `linux-${cpu}-${env}`,
  triple: `${arch}-unknown-linux-${env}`,
  crossTriple: `${arch}-unknown-linux-${env}`,
  zigTriple: `${arch}-unknown-linux-${env}${env === "gnu" ? ".2.17" : ""}`,
  library: "libopencode_qwen_cli_auth.so",
  // An addon uses the C library that Node has loaded.
  flags: env === "musl" ? ["-Ctarget-feature=-crt-static"] : [],
  os: "linux",
  cpu,
  libc,
});

const darwin = (cpu, arch) => ({
  name: `darwin-${cpu}`,
  triple: `${arch}-apple-darwin`,
  crossTriple: `${arch}-apple-darwin`,
  zigTriple: `${arch}-apple-darwin`,
  library: "libopencode_qwen_cli_auth.dylib",
  flags: [],
  os: "darwin",
  cpu,
});

// Microsoft's linker and libraries are not available on Linux. LLVM's produce the same result.
const windows = (cpu, arch) => ({
  name: `win32-${cpu}`,
  triple: `${arch}-pc-windows-msvc`,
  crossTriple: `${arch}-pc-windows-gnullvm`,
  zigTriple: `${arch}-pc-windows-gnullvm`,
  library: "opencode_qwen_cli_auth.dll",
  // Microsoft's C library is not on every system.
  flags: ["-Ctarget-feature=+crt-static"],
  os: "win32",
  cpu,
});

/** @type {Target[]} */
export const TARGETS = [
  linux("x64", "x86_64", "glibc", "gnu"),
  linux("arm64", "aarch64", "glibc", "gnu"),
  linux("x64", "x86_64", "musl", "musl"),
  linux("arm64", "aarch64", "musl", "musl"),
  darwin("x64", "x86_64"),
  darwin("arm64", "aarch64"),
  windows("x64", "x86_64"),
  windows("arm64", "aarch64"),
];

/** @returns {Target} */
export function targetNamed(name) {
  const target = TARGETS.find((one) => one.name === name);
  if (target) return target;
  console.error(
    `There is no target ${name ?? "without a name"}. Targets: ${TARGETS.map((one) => one.name).join(", ")}`,
  );
  process.exit(2);
}

/** The target of the machine that this runs on. */
export const hostTarget = () => targetNamed(platformTarget());

export const packageName = (target) => `${NAME}-${target.name}`;
/** The file name of a target's addon. */
export const addonName = (target) => `${NAME}.${target.name}.node`;
