// A script in place of `qwen` that notes how it was started, and runs a function of the test.

import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * @param {object} t the test
 * @param {{ home: string }} home gets the script as `bin/qwen`
 * @param {(context: { say(...items: unknown[]): void, prompt: string, note: string }) => unknown} act runs after
 *   standard input was read. It can't use variables of the spec; `say` prints each object as a line.
 * @param {object} [options]
 * @param {string} [options.directory]
 * @param {unknown} [options.data] passed to `act`
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
// Renamed into place, so that readers find it whole.
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
    /** Lists its starts. */
    runs: () =>
      files()
        .filter((name) => name.startsWith("run-"))
        .map(read),
    noted: (name) => (files().includes(name) ? read(name) : undefined),
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
