"use strict";

const { statSync, watch } = require("node:fs");
const { basename, dirname } = require("node:path");

/** Delay after a change, in milliseconds, so that all steps of a replacement are reported once. */
const SETTLE_MS = 200;

function isDirectory(path) {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** Returns the place to watch for a path: the nearest existing directory, and the name in it that leads to the path. */
function watchPoint(path) {
  let [directory, name] = [dirname(path), basename(path)];
  while (!isDirectory(directory) && dirname(directory) !== directory) {
    [directory, name] = [dirname(directory), basename(directory)];
  }
  return { directory, name };
}

/**
 * Watches files that others replace. If a temporary file becomes one of them, Bun only names the temporary file, whose name
 * contains that of the file. Where the system can't watch, such as on a network mount, nothing is reported.
 */
class FileWatch {
  #paths;
  #changed;
  #watchers = new Map();
  #timer;

  constructor(paths, changed) {
    this.#paths = paths;
    this.#changed = changed;
    this.#arm();
  }

  /** Directories come and go, so this runs again after each change. */
  #arm() {
    const wanted = new Map();
    for (const path of this.#paths) {
      const { directory, name } = watchPoint(path);
      wanted.set(directory, [...(wanted.get(directory) ?? []), name]);
    }
    for (const directory of [...this.#watchers.keys()]) {
      if (!wanted.has(directory)) this.#drop(directory);
    }
    for (const [directory, names] of wanted) this.#watch(directory, names);
  }

  #watch(directory, names) {
    const known = this.#watchers.get(directory);
    if (known) {
      known.names = names;
      return;
    }
    try {
      const watcher = watch(directory, { persistent: false });
      const entry = { watcher, names };
      watcher.on("change", (_, name) => {
        // The directory itself was removed or renamed.
        if (name === basename(directory) && !isDirectory(directory)) this.#drop(directory);
        else if (name && !entry.names.some((wanted) => name.includes(wanted))) return;
        this.#schedule();
      });
      watcher.on("error", () => this.#drop(directory));
      this.#watchers.set(directory, entry);
    } catch {
      // This directory can't be watched. The accounts are read again when OpenCode opens another project.
    }
  }

  #drop(directory) {
    this.#watchers.get(directory)?.watcher.close();
    this.#watchers.delete(directory);
  }

  #schedule() {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#arm();
      this.#changed();
    }, SETTLE_MS);
    this.#timer.unref();
  }

  stop() {
    clearTimeout(this.#timer);
    for (const directory of [...this.#watchers.keys()]) this.#drop(directory);
  }
}

/**
 * Calls `changed` some time after one of the files was made, replaced or removed. Keeps no process alive.
 *
 * @param {string[]} paths absolute paths, whether or not the files exist
 * @param {() => void} changed
 * @returns {() => void} ends it
 */
function watchFiles(paths, changed) {
  const files = new FileWatch(paths, changed);
  return () => files.stop();
}

module.exports = { watchFiles };
