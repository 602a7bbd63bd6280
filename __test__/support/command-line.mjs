// Runs the command line as a process, in its own home directory.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { SECRET_PREFIX } from "./qwen-server.mjs";

const PROGRAM = fileURLToPath(new URL("../../bin/opencode-qwen-cli-auth.js", import.meta.url));

/**
 * Runs the program to its end.
 *
 * @param {object} context
 * @param {Record<string, string>} context.env the whole environment
 * @param {string} [context.cwd]
 * @param {string} [context.input] on standard input
 * @param {string[]} [context.secrets] texts that must not be printed
 */
export async function runProgram({ env, cwd, input, secrets = [] }, args, { program = PROGRAM } = {}) {
  const child = spawn(process.execPath, [program, ...args], { env, cwd, stdio: ["pipe", "pipe", "pipe"] });
  child.stdin.on("error", () => {}).end(input);
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) {
    child[name].setEncoding("utf8").on("data", (text) => {
      output[name] += text;
    });
  }
  const { code, signal } = await new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal }));
  });
  const everything = output.stdout + output.stderr;
  const printed = [SECRET_PREFIX, ...secrets].filter((secret) => everything.includes(secret));
  assert.deepEqual(printed, [], "a secret was printed");
  return { code, signal, ...output };
}
