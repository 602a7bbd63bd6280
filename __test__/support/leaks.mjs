// Searches written files for secrets of the local server.

import assert from "node:assert/strict";
import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { SECRET_PREFIX } from "./qwen-server.mjs";

/** Part of each secret of the server. Base64 shows it in three forms, by its offset. */
const FORMS = [0, 1, 2].map((shift) => {
  const encoded = Buffer.from(" ".repeat(shift) + SECRET_PREFIX).toString("base64");
  // Characters that depend on the neighbours are left out.
  return encoded.slice(shift && 4, -4);
});
const NEEDLES = [SECRET_PREFIX, encodeURIComponent(SECRET_PREFIX), ...FORMS].map((text) => Buffer.from(text));

/** Files where tokens belong, temporary files of a killed qwen CLI, and files of the tests. */
const STORES =
  /^(?:(?:oauth_creds|oauth_accounts|oauth_token|auth|mine|settings|hard|creds|theirs)\.json(?:\.corrupt-.*)?|oauth_creds\.json\.tmp\.[\w-]+)$/;

export const isTokenStore = (path) => STORES.test(basename(path));

export const holdsSecret = (bytes) => NEEDLES.some((needle) => bytes.includes(needle));

/** Lists the files below a directory that hold a secret and must not. */
export function leaksBelow(directory, isStore = isTokenStore) {
  const leaks = [];
  const walk = (path) => {
    const status = lstatSync(path, { throwIfNoEntry: false });
    if (status?.isDirectory()) readdirSync(path).forEach((name) => walk(join(path, name)));
    if (holdsSecret(Buffer.from(basename(path)))) leaks.push(path);
    if (status?.isFile() && !isStore(path) && holdsSecret(readFileSync(path))) leaks.push(path);
  };
  walk(directory);
  return leaks;
}

/** Fails if a file below the directory holds a secret. */
export function assertNoLeaks(directory, isStore) {
  const leaks = leaksBelow(directory, isStore).map((path) => path.slice(directory.length + 1));
  assert.deepEqual(leaks, [], "files hold a secret of the server's");
}
