// A script in place of `qwen` that notes how it was started, and runs a function of the test.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * @param {{ home: string }} home gets the script as `bin/qwen`
 * @param {(context: { say(...items: unknown[]): void, note(name: string, value: unknown): void, data: unknown }) =>
 *   unknown} act runs after standard input was read. It can't use variables of the spec; `say` prints each object as a line.
 * @param {unknown} [data] passed to `act`
 */
export function makeFakeCli(home, act, data) {
  const bin = join(home.home, "bin");
  const notes = join(home.home, "bin-notes");
  for (const path of [bin, notes]) mkdirSync(path);
  const script = `#!${process.execPath}
const fs = require("node:fs");
const { join } = require("node:path");
const notes = ${JSON.stringify(notes)};
fs.readFileSync(0);
const say = (...items) => {
  for (const item of items) fs.writeSync(1, JSON.stringify(item) + "\\n");
};
// Renamed into place, so that readers find it whole.
const note = (name, value) => {
  const written = join(notes, ".." , "note-" + process.pid);
  fs.writeFileSync(written, JSON.stringify(value));
  fs.renameSync(written, join(notes, name));
};
note(\`run-\${process.pid}\`, { pid: process.pid });
(${String(act)})({ say, note, data: ${JSON.stringify(data ?? null)} });
`;
  writeFileSync(join(bin, "qwen"), script, { mode: 0o755 });
  const read = (name) => JSON.parse(readFileSync(join(notes, name), "utf8"));
  return {
    bin,
    /** Lists its starts. */
    runs: () =>
      readdirSync(notes)
        .filter((name) => name.startsWith("run-"))
        .map(read),
    noted: (name) => (readdirSync(notes).includes(name) ? read(name) : undefined),
  };
}

/** True if the process exists and is not a zombie. */
export function isRunning(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !/^\d+ \(.*\) [ZX]/s.test(stat);
  } catch {
    return false;
  }
}
