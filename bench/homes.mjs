// Creates home directories with a login for every contender, all on the benchmark server.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const DAY_MS = 24 * 3_600_000;

function write(path, value) {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(path, JSON.stringify(value, null, 2), { mode: 0o600 });
}

/**
 * @param {string} origin of the server
 * @param {{accounts?: number, isExpired?: boolean}} options
 * @returns {string} the directory
 */
export function makeHome(origin, { accounts = 1, isExpired = false } = {}) {
  const home = mkdtempSync(join(tmpdir(), "qwen-bench-"));
  const expires = Date.now() + (isExpired ? -1 : 1) * DAY_MS;
  const token = (number) => ({
    access_token: `bench-access-${number}`,
    refresh_token: `bench-refresh-${number}`,
    token_type: "Bearer",
    resource_url: origin,
    expiry_date: expires,
  });
  // The file of the qwen CLI and this package, and the store of several accounts.
  write(join(home, ".qwen/oauth_creds.json"), token(0));
  if (accounts > 1) {
    const now = Date.now();
    const record = (_, number) => ({
      id: `acct_${number}`,
      token: token(number),
      createdAt: now,
      updatedAt: now,
    });
    const store = {
      version: 1,
      activeAccountId: "acct_0",
      accounts: Array.from({ length: accounts }, record),
    };
    write(join(home, ".qwen/oauth_accounts.json"), store);
  }
  // The original plugin's file.
  write(join(home, ".opencode/qwen/oauth_token.json"), { ...token(0), expires });
  // The file of opencode-qwen-auth.
  const theirs = (_, number) => ({
    refreshToken: `bench-refresh-${number}`,
    accessToken: `bench-access-${number}`,
    expires,
    resourceUrl: origin,
    addedAt: Date.now(),
    lastUsed: Date.now(),
  });
  write(join(home, ".config/opencode/qwen-auth-accounts.json"), {
    version: 1,
    accounts: Array.from({ length: accounts }, theirs),
    activeIndex: 0,
  });
  return home;
}

/** Makes the token in a home expire. */
export function expireLogin(home) {
  const path = join(home, ".qwen/oauth_creds.json");
  const token = JSON.parse(readFileSync(path, "utf8"));
  write(path, { ...token, expiry_date: Date.now() - DAY_MS });
}

export function removeHome(home) {
  rmSync(home, { recursive: true, force: true });
}

/** The environment of a contender's process. */
export function environmentOf(home, origin) {
  const { PATH, TMPDIR } = process.env;
  const own = { PATH, HOME: home, USERPROFILE: home, XDG_CONFIG_HOME: join(home, ".config") };
  if (TMPDIR) own.TMPDIR = TMPDIR;
  // Bun's fetch sends at most 256 requests at once. Others wait, including those that would end the first.
  const limits = { BUN_CONFIG_MAX_HTTP_REQUESTS: "4096" };
  return { ...own, ...limits, OPENCODE_QWEN_OAUTH_BASE_URL: origin, QWEN_OAUTH_BASE_URL: origin };
}
