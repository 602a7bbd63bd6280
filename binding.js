"use strict";

// Finds the compiled addon: the one built in this checkout, otherwise the package for this platform that npm installed beside
// this one.

const fs = require("node:fs");
const { join } = require("node:path");
const { version } = require("./package.json");

const NAME = "opencode-qwen-cli-auth";
const PLATFORMS = ["darwin-arm64", "darwin-x64", "linux-arm64", "linux-x64", "win32-arm64", "win32-x64"];

/**
 * Returns the C library of this process on Linux. A process on musl has mapped the loader of musl. The kernel's list of mapped
 * files takes less time to read than the executable or `process.report`.
 *
 * @returns {"gnu" | "musl"}
 */
function libc() {
  return mappedFiles().includes("/ld-musl-") ? "musl" : "gnu";
}

function mappedFiles() {
  try {
    return fs.readFileSync("/proc/self/maps", "utf8");
  } catch {
    // A chroot or a container can lack /proc.
    const report = /** @type {{sharedObjects?: string[]}} */ (process.report?.getReport() ?? {});
    return report.sharedObjects?.join("\n") ?? "";
  }
}

/** Returns the name of the build for this platform, which may not exist. */
function platformTarget() {
  const platform = `${process.platform}-${process.arch}`;
  return process.platform === "linux" ? `${platform}-${libc()}` : platform;
}

/** @throws {Error} with the code `ERR_QWEN_NATIVE_BINDING`, in two lines: the missing file, and the fix */
function load() {
  const target = platformTarget();
  if (!PLATFORMS.includes(`${process.platform}-${process.arch}`)) {
    throw bindingError(
      target,
      "there is none for this system.",
      "Use it on Linux, macOS or Windows, on x64 or arm64; elsewhere it can be built from source.",
    );
  }
  const built = join(__dirname, `${NAME}.${target}.node`);
  const wanted = fs.existsSync(built) ? built : `${NAME}-${target}`;
  let addon;
  try {
    addon = require(wanted);
  } catch (error) {
    const reason = String(error?.message ?? error).split("\n", 1)[0];
    throw bindingError(
      target,
      `looked for ${wanted}: ${reason}.`,
      `Install ${NAME} again on this system, without --omit=optional (--no-optional). A node_modules folder from another system does not fit.`,
      error,
    );
  }
  // JavaScript and the addon must be of the same version.
  const found = addon.version?.() ?? "unknown";
  if (found !== version) {
    throw bindingError(
      target,
      `found ${wanted} of version ${found}, but this is ${version}.`,
      wanted === built ? "Run `npm run build`." : `Install ${NAME} again, so that both are of one version.`,
    );
  }
  return addon;
}

function bindingError(target, found, advice, cause) {
  const message = `The native part of ${NAME} for ${target} could not be loaded: ${found}\n${advice}`;
  return Object.assign(new Error(message, { cause }), { code: "ERR_QWEN_NATIVE_BINDING", target });
}

module.exports = { libc, load, platformTarget };
