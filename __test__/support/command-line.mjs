// Runs the command line as a process, in its own home directory.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { until } from "./harness.mjs";
import { SECRET_PREFIX } from "./qwen-server.mjs";
import { inTerminal } from "./terminal.mjs";

export const PROGRAM = fileURLToPath(new URL("../../bin/opencode-qwen-cli-auth.js", import.meta.url));

/**
 * Starts the program.
 *
 * @param {object} context
 * @param {Record<string, string>} context.env the whole environment
 * @param {string} [context.cwd]
 * @param {string[]} [context.secrets] texts that must not be printed
 * @param {object} [options]
 * @param {string} [options.program]
 * @param {object} [options.terminal] size of a terminal that it runs in
 * @returns the output so far, and the exit
 */
export function startProgram({ env, cwd, secrets = [] }, args, { program = PROGRAM, terminal } = {}) {
  const words = [process.execPath, program, ...args];
  const [command, ...rest] = terminal === undefined ? words : inTerminal(words, terminal);
  const child = spawn(command, rest, { env, cwd, stdio: ["pipe", "pipe", "pipe"] });
  child.stdin.on("error", () => {});
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) {
    child[name].setEncoding("utf8").on("data", (text) => {
      output[name] += text;
    });
  }
  const ended = new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, ...output }));
  }).then((result) => {
    const everything = output.stdout + output.stderr;
    const printed = [SECRET_PREFIX, ...secrets].filter((secret) => everything.includes(secret));
    assert.deepEqual(printed, [], "a secret was printed");
    return result;
  });
  return {
    child,
    ended,
    output,
    printed: (pattern, stream = "stdout") =>
      until(() => pattern.exec(output[stream]), `${pattern} in ${stream}`),
    press: (key) => child.stdin.write(key),
  };
}

/** Runs the program to its end. `context` is that of {@link startProgram}, and `input` is its standard input. */
export function runProgram({ input, ...context }, args, options) {
  const { child, ended } = startProgram(context, args, options);
  child.stdin.end(input);
  return ended;
}
