/** Checks that several tests share. */
import assert from "node:assert/strict";
import { AUTH } from "./opencode.mjs";

/** The placeholder in OpenCode's own file, which names an account instead of a token. */
const PLACEHOLDER = /^opencode-qwen-cli-auth:[\w-]+$/;

/** Checks that a run succeeded and printed only the answer. */
export function assertAnswer(result, answer) {
  assert.deepEqual(
    { code: result.code, stdout: result.stdout },
    { code: 0, stdout: `${answer}\n` },
    result.stderr,
  );
  assert.equal(result.error, undefined);
}

/** Checks that a run failed, and printed only the reason. */
export function assertFailure(result, error) {
  assert.equal(result.stdout, "", result.stderr);
  assert.match(result.error ?? "no error", error);
  assert.equal(result.stderr.match(/Error:/g).length, 1, result.stderr);
}

/** Checks that OpenCode's own file has an entry of the plugin, and no token. */
export function assertPlaceholder({ sandbox }) {
  const { type, access, refresh, expires } = sandbox.readJson(AUTH)["qwen-code"];
  assert.equal(type, "oauth");
  assert.match(access, PLACEHOLDER);
  assert.equal(refresh, access);
  assert.ok(expires > Date.now());
}

/** Checks that the portal has no objection and the server had no errors. */
export function assertClean(server) {
  assert.deepEqual(server.violations, []);
  assert.deepEqual(server.failures, []);
}

/** The requests of an endpoint as `status account`. */
export function exchanges(server, endpoint) {
  return server.seen(endpoint).map(({ status, account }) => `${status} ${account}`);
}
