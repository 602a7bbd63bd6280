"use strict";

const { closeSync, openSync, readSync } = require("node:fs");

// Of the ELF format: offsets in the header and in an entry of the program header table, and the entry that is looked for.
const HEADER = { bytes: 64, table: 32, entryBytes: 54, entries: 56 };
const ENTRY = { type: 0, offset: 8, bytes: 32 };
const INTERPRETER = 3;
const MAGIC = "\u007fELF";

/**
 * The C library that this program runs on, on Linux: its executable names the loader that starts it. That holds in every
 * runtime, and spares the work of `process.report`, which some runtimes do not have.
 *
 * @returns {"gnu" | "musl"}
 */
function libc() {
  return /ld-musl-/.test(loader()) ? "musl" : "gnu";
}

function loader() {
  // Where a script stands for the executable, such as around an emulator, the kernel knows better.
  return loaderOf(process.execPath) ?? loaderOf("/proc/self/exe") ?? process.execPath;
}

/** What starts a program; undefined where it can't be read, or is a script. */
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
    // A loader that was given the program to start is the executable itself.
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
