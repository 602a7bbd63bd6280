import { mkdirSync, mkdtempSync, readFileSync, realpathSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { removeDirectory } from "./remove.mjs";

/**
 * A fresh home directory in a temporary folder, and an environment that names no other. Paths given to its
 * methods are relative to the home directory.
 */
export class Sandbox {
  /** Paths of the files that a test has written. */
  planted = new Set();

  constructor(name) {
    this.home = realpathSync(mkdtempSync(join(tmpdir(), name)));
    this.env = {
      PATH: process.env.PATH,
      HOME: this.home,
      TMPDIR: this.path("tmp"),
      XDG_CONFIG_HOME: this.path(".config"),
      XDG_DATA_HOME: this.path(".local/share"),
      XDG_CACHE_HOME: this.path(".cache"),
      XDG_STATE_HOME: this.path(".local/state"),
      LANG: "C.UTF-8",
    };
    mkdirSync(this.env.TMPDIR);
  }

  path(...parts) {
    return join(this.home, ...parts);
  }

  makeDirectory(path, mode = 0o700) {
    mkdirSync(this.path(path), { recursive: true, mode });
    return this.path(path);
  }

  /** @param {string | Uint8Array | object} content an object is written as JSON */
  write(path, content, mode = 0o600) {
    this.makeDirectory(dirname(path));
    const isText = typeof content === "string" || content instanceof Uint8Array;
    this.planted.add(this.path(path));
    writeFileSync(this.path(path), isText ? content : JSON.stringify(content, null, 2), { mode });
    return this.path(path);
  }

  read(path) {
    return readFileSync(this.path(path), "utf8");
  }

  readJson(path) {
    return JSON.parse(this.read(path));
  }

  has(path) {
    return statSync(this.path(path), { throwIfNoEntry: false }) !== undefined;
  }

  mode(path) {
    return statSync(this.path(path)).mode & 0o777;
  }

  remove() {
    return removeDirectory(this.home);
  }
}
