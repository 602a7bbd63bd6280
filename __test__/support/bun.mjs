// Finds Bun: the one inside OpenCode, else BUN_BINARY.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** OpenCode is built with Bun, and runs scripts if this variable is set. */
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

/** Environment of a child that runs in Bun. */
export const bunEnvironment = found?.env ?? {};

/** Value of `skip` for tests that need Bun. */
export const withoutBun = found
  ? false
  : "there is no Bun; install the packages of __test__/e2e, or set BUN_BINARY";
