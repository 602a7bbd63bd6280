"use strict";

const fs = require("node:fs");

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

module.exports = { libc };
