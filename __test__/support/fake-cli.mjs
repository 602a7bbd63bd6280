/**
 * A `qwen` that is none: a script that notes how it was started, and does as it is told.
 *
 * @module
 */

import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * @param {object} t the test
 * @param {{ home: string }} home where it is put: `bin/qwen` there
 * @param {(context: { say(...items: unknown[]): void, prompt: string, note: string }) => unknown} act what it does once it
 *   has read its standard input. It sees nothing of the spec; `say` prints an object a line.
 * @param {object} [options]
 * @param {string} [options.directory]
 * @param {unknown} [options.data] given to `act`
 */
export function makeFakeCli(home, act, { directory = "bin", data } = {}) {
  const bin = join(home.home, directory);
  const notes = join(home.home, `${directory}-notes`);
  mkdirSync(bin, { recursive: true });
  mkdirSync(notes, { recursive: true });
  const path = join(bin, "qwen");
  const script = `#!${process.execPath}
const fs = require("node:fs");
const { join } = require("node:path");
const notes = ${JSON.stringify(notes)};
const prompt = fs.readFileSync(0, "utf8");
const qwenHome = process.env.QWEN_HOME;
const say = (...items) => {
  for (const item of items) fs.writeSync(1, typeof item === "string" ? item : JSON.stringify(item) + "\\n");
};
// Whoever reads it finds all of it.
const note = (name, value) => {
  const written = join(notes, ".." , "note-" + process.pid);
  fs.writeFileSync(written, JSON.stringify(value));
  fs.renameSync(written, join(notes, name));
};
note(\`run-\${process.pid}\`, {
  pid: process.pid,
  argv: process.argv.slice(2),
  env: process.env,
  cwd: process.cwd(),
  cwdFiles: fs.readdirSync(process.cwd()),
  cwdMode: fs.statSync(process.cwd()).mode & 0o777,
  homeMode: fs.statSync(join(process.cwd(), "..")).mode & 0o777,
  settings: qwenHome && fs.existsSync(qwenHome) ? fs.readdirSync(qwenHome) : null,
  prompt,
});
Promise.resolve((${String(act)})({ say, prompt, note, notes, data: ${JSON.stringify(data ?? null)} }));
`;
  writeFileSync(path, script);
  chmodSync(path, 0o755);
  const files = () => (existsSync(notes) ? readdirSync(notes) : []);
  const read = (name) => JSON.parse(readFileSync(join(notes, name), "utf8"));
  return {
    path,
    bin,
    /** How it was started, each time. */
    runs: () =>
      files()
        .filter((name) => name.startsWith("run-"))
        .map(read),
    noted: (name) => (files().includes(name) ? read(name) : undefined),
  };
}

/** Whether a process is there, and no zombie. */
export function isRunning(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !/^\d+ \(.*\) [ZX]/s.test(stat);
  } catch {
    return false;
  }
}
