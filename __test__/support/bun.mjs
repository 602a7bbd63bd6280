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
  const platform = process.platform === "win32" ? "windows" : process.platform;
  const name = process.platform === "win32" ? "opencode.exe" : "opencode";
  const place = `../e2e/node_modules/opencode-${platform}-${process.arch}/bin/${name}`;
  const path = fileURLToPath(new URL(place, import.meta.url));
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
