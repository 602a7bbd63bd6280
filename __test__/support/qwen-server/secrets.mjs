import { randomBytes } from "node:crypto";

/** Part of every secret that the server makes, so a leak test needs one search. */
export const SECRET_PREFIX = "QwenTestSecret";

const SECRET_FIELDS = new Set([
  "access_token",
  "refresh_token",
  "device_code",
  "code_verifier",
  "authorization",
  "token",
  "key",
]);

/** @param {"at" | "rt" | "dc" | "key"} kind */
export function newSecret(kind) {
  return `${SECRET_PREFIX}-${kind}-${randomBytes(24).toString("base64url")}`;
}

/** RFC 8628 section 6.1: no vowels, and no characters that look alike. */
export function newUserCode() {
  const alphabet = "BCDFGHJKLMNPQRSTVWXZ";
  const letters = [...randomBytes(8)].map((byte) => alphabet[byte % alphabet.length]);
  return `${letters.slice(0, 4).join("")}-${letters.slice(4).join("")}`;
}

/**
 * A copy of `value` with every secret shown as `…`.
 *
 * @param {unknown} value
 * @param {Iterable<string>} issued secrets without the prefix, such as adopted tokens
 */
export function redact(value, issued = []) {
  const foreign = [...issued].filter((secret) => !secret.includes(SECRET_PREFIX));
  const pattern = new RegExp(`(?:sk-[\\w-]*)?${SECRET_PREFIX}[\\w-]*`, "g");
  const clean = (text) =>
    foreign.reduce((result, secret) => result.replaceAll(secret, "…"), text.replace(pattern, "…"));
  const walk = (item, field) => {
    if (typeof item === "string") {
      if (field === "authorization") return item.replace(/\s.*$/s, " …");
      return SECRET_FIELDS.has(field) ? "…" : clean(item);
    }
    if (Array.isArray(item)) return item.map((part) => walk(part));
    if (item && typeof item === "object" && !Buffer.isBuffer(item)) {
      return Object.fromEntries(Object.entries(item).map(([name, part]) => [name, walk(part, name)]));
    }
    return item;
  };
  return walk(value);
}
