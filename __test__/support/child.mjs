// Runs a function of the spec in its own process, in Node or in Bun.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { SECRET_PREFIX } from "./qwen-server.mjs";
import { bun, bunEnvironment } from "./bun.mjs";

const PROGRAM = fileURLToPath(new URL("child-program.mjs", import.meta.url));
const ROOT = fileURLToPath(new URL("../..", import.meta.url));

export const RUNTIMES = { node: process.execPath, ...(bun && { bun }) };

/**
 * Starts a process that runs `body`, which can use `data` but nothing else of its module.
 *
 * @param {object} t the test; its end kills the process
 * @param {"node" | "bun"} runtime
 * @param {(context: { load(): Promise<object>, report(value: unknown): void, told(): Promise<void>,
 *   ask(client: object, text: string, fields?: object, init?: object): Promise<Response>, revive(text: string): Function, data: any }) => Promise<void>} body
 * @param {object} [options]
 * @param {unknown} [options.data]
 * @param {Record<string, string>} [options.env] replaces this process's HOME
 * @param {string[]} [options.args] arguments of the runtime
 */
export function startChild(t, runtime, body, { data, env = {}, args = [] } = {}) {
  const child = spawn(RUNTIMES[runtime], [...args, PROGRAM], {
    cwd: ROOT,
    env: {
      ...process.env,
      ...(runtime === "bun" && bunEnvironment),
      ...env,
      SPEC_CHILD: JSON.stringify({ source: String(body), data }),
    },
    stdio: ["pipe", "pipe", "pipe"],
  });
  t.after(() => {
    child.kill("SIGKILL");
    assert.ok(!stderr.includes(SECRET_PREFIX), "a process has printed a secret");
  });
  child.stdin.on("error", () => {});
  let [stdout, stderr] = ["", ""];
  let ended;
  const waiting = new Set();
  child.stdout.setEncoding("utf8").on("data", (text) => {
    stdout += text;
    for (const check of waiting) check();
  });
  child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
  const closed = new Promise((resolve) => {
    child.on("close", (code, signal) => {
      ended = { code, signal };
      resolve(ended);
      for (const check of waiting) check();
    });
  });
  const reports = () =>
    stdout
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line));

  return {
    kill: (signal) => child.kill(signal),
    tell: () => child.stdin.write("go\n"),
    /** Waits for the report with this index. */
    report(index = 0, timeoutMs = 120_000) {
      return new Promise((resolve, reject) => {
        const settle = (act, value) => {
          clearTimeout(timer);
          waiting.delete(check);
          act(value);
        };
        const check = () => {
          if (reports().length > index) settle(resolve, reports()[index]);
          else if (ended)
            settle(reject, new Error(`${runtime} ended with ${JSON.stringify(ended)}: ${stderr}`));
        };
        const timer = setTimeout(() => {
          settle(reject, new Error(`${runtime} reported nothing within ${timeoutMs} ms: ${stderr}`));
        }, timeoutMs);
        waiting.add(check);
        check();
      });
    },
    /** Waits for the end: `{ code, signal }`. */
    ended: closed,
    /** Waits until it has succeeded by itself, and returns its reports. */
    async end(timeoutMs = 120_000) {
      let timer;
      const late = new Promise((resolve) => (timer = setTimeout(resolve, timeoutMs, undefined)));
      const result = await Promise.race([closed, late]);
      clearTimeout(timer);
      assert.ok(result, `${runtime} still runs after ${timeoutMs} ms; it said: ${stdout} ${stderr}`);
      assert.deepEqual(result, { code: 0, signal: null }, `${runtime} said: ${stdout} ${stderr}`);
      return reports();
    },
  };
}

/** Runs `body` to its end, and returns its first report. */
export async function inChild(t, runtime, body, options) {
  const [first] = await startChild(t, runtime, body, options).end();
  return first;
}
