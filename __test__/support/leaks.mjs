/**
 * Looks for secrets of the local server's in all that was written.
 *
 * @module
 */

import assert from "node:assert/strict";
import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { SECRET_PREFIX } from "./qwen-server.mjs";

/** Every secret of the server's contains it; in Base64 it looks different at each of three places. */
const FORMS = [0, 1, 2].map((shift) => {
  const encoded = Buffer.from(" ".repeat(shift) + SECRET_PREFIX).toString("base64");
  // What depends on the neighbours is left out.
  return encoded.slice(shift && 4, -4);
});
const NEEDLES = [SECRET_PREFIX, encodeURIComponent(SECRET_PREFIX), ...FORMS].map((text) => Buffer.from(text));

/** Where tokens belong, what a qwen CLI leaves that is killed while it writes, and files that tests have made. */
const STORES =
  /^(?:(?:oauth_creds|oauth_accounts|oauth_token|auth|mine|settings|hard|creds|theirs)\.json(?:\.corrupt-.*)?|oauth_creds\.json\.tmp\.[\w-]+)$/;

export const isTokenStore = (path) => STORES.test(basename(path));

export const holdsSecret = (bytes) => NEEDLES.some((needle) => bytes.includes(needle));

/** The files below a directory that hold a secret and are no place for one. */
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

/** Fails where a file below the directory holds a secret. */
export function assertNoLeaks(directory, isStore) {
  const leaks = leaksBelow(directory, isStore).map((path) => path.slice(directory.length + 1));
  assert.deepEqual(leaks, [], "files hold a secret of the server's");
}
