"use strict";

// Keeps a gateway's key in a file, so that it is the same after a restart.

const { randomBytes } = require("node:crypto");
const fs = require("node:fs");
const { failure } = require("./failure");

const MIN_LENGTH = 32;
const MAX_BYTES = 4096;
/** Longest part of a path in a message, in UTF-16 units. */
const MAX_SHOWN = 1000;
const OTHERS = 0o077;
const { O_RDONLY, O_NONBLOCK = 0 } = fs.constants;

/** Reads the key in a file. Creates a missing file with a random key. Throws if other users could read the file. */
function readKeyFile(path) {
  try {
    return create(path);
  } catch (error) {
    if (error.code !== "EEXIST") throw unusable(path, `could not be created (${error.code})`);
  }
  let file;
  try {
    // Opening a pipe must not block.
    file = fs.openSync(path, O_RDONLY | O_NONBLOCK);
    return read(path, file);
  } catch (error) {
    if (error.code?.startsWith("ERR_QWEN_")) throw error;
    throw unusable(path, `could not be read (${error.code})`);
  } finally {
    if (file !== undefined) fs.closeSync(file);
  }
}

function create(path) {
  const key = randomBytes(32).toString("base64url");
  fs.writeFileSync(path, `${key}\n`, { flag: "wx", mode: 0o600 });
  return key;
}

function read(path, file) {
  const status = fs.fstatSync(file);
  if (!status.isFile()) throw unusable(path, "is not a file");
  if (process.platform !== "win32") {
    if ((status.mode & OTHERS) !== 0) throw unusable(path, "can be read by others: run `chmod 600` on it");
    if (![0, process.getuid?.()].includes(status.uid)) throw unusable(path, "belongs to another user");
  }
  if (status.size > MAX_BYTES) throw unusable(path, "is too large for a key");
  const key = fs.readFileSync(file, "utf8").trim();
  if (key.length < MIN_LENGTH) {
    const problem = key === "" ? "is empty" : `has fewer than ${MIN_LENGTH} characters`;
    throw unusable(path, `${problem}: remove it, and the next start creates a new one`);
  }
  return key;
}

function unusable(path, problem) {
  const shown = path.length > MAX_SHOWN ? `${path.slice(0, MAX_SHOWN)}…` : path;
  return failure("ERR_QWEN_INVALID_ARGUMENT", `The key file ${shown} ${problem}.`);
}

module.exports = { readKeyFile };
