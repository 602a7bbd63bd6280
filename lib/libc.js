"use strict";

const { closeSync, openSync, readSync } = require("node:fs");

// ELF format: offsets in the header and in an entry of the program header table, and the type of the interpreter entry.
const HEADER = { bytes: 64, table: 32, entryBytes: 54, entries: 56 };
const ENTRY = { type: 0, offset: 8, bytes: 32 };
const INTERPRETER = 3;
const MAGIC = "\u007fELF";

/**
 * Returns the C library of this process on Linux. The executable names its loader, which is faster to read than
 * `process.report` and works in runtimes without it.
 *
 * @returns {"gnu" | "musl"}
 */
function libc() {
  return /ld-musl-/.test(loader()) ? "musl" : "gnu";
}

function loader() {
  // If `execPath` is a script, for example around an emulator, the kernel knows the executable.
  return loaderOf(process.execPath) ?? loaderOf("/proc/self/exe") ?? process.execPath;
}

/** Returns the loader of a program, or undefined for a script or an unreadable file. */
function loaderOf(program) {
  let file;
  try {
    file = openSync(program, "r");
    const header = read(file, 0, HEADER.bytes);
    if (header.toString("latin1", 0, MAGIC.length) !== MAGIC) return undefined;
    const table = Number(header.readBigUInt64LE(HEADER.table));
    const entryBytes = header.readUInt16LE(HEADER.entryBytes);
    for (let index = 0; index < header.readUInt16LE(HEADER.entries); index += 1) {
      const entry = read(file, table + index * entryBytes, entryBytes);
      if (entry.readUInt32LE(ENTRY.type) !== INTERPRETER) continue;
      const [offset, bytes] = [ENTRY.offset, ENTRY.bytes].map((at) => Number(entry.readBigUInt64LE(at)));
      return read(file, offset, bytes).toString("latin1");
    }
    // Without an interpreter entry the executable is the loader itself.
    return program;
  } catch {
    return undefined;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function read(file, position, length) {
  const buffer = Buffer.alloc(length);
  readSync(file, buffer, 0, length, position);
  return buffer;
}

module.exports = { libc };
