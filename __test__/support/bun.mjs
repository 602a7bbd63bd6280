/**
 * Where Bun is: the one inside OpenCode, which is the one that counts, else BUN_BINARY.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** OpenCode is a program of Bun's, and runs scripts where this variable says so. */
const BECOME_BUN = { BUN_BE_BUN: "1" };

/** @returns {{path: string, env: Record<string, string>} | undefined} */
function findBun() {
  if (process.env.BUN_BINARY) return { path: process.env.BUN_BINARY, env: {} };
  const path = fileURLToPath(new URL("../e2e/node_modules/opencode-1.18.33/bin/opencode", import.meta.url));
  return existsSync(path) ? { path, env: BECOME_BUN } : undefined;
}

const found = findBun();

/** @type {string | undefined} */
export const bun = found?.path;

/** What a child that is to be Bun needs in its environment. */
export const bunEnvironment = found?.env ?? {};

/** What a test that needs Bun is given as its `skip`. */
export const withoutBun = found
  ? false
  : "there is no Bun; install the packages of __test__/e2e, or set BUN_BINARY";
