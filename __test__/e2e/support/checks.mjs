/** What the tests check again and again. */
import assert from "node:assert/strict";
import { AUTH } from "./opencode.mjs";

/** What stands for a token in OpenCode's own file: it names an account. */
const PLACEHOLDER = /^opencode-qwen-cli-auth:[\w-]+$/;

/** A run that went well said nothing but the answer. */
export function assertAnswer(result, answer) {
  assert.deepEqual(
    { code: result.code, stdout: result.stdout },
    { code: 0, stdout: `${answer}\n` },
    result.stderr,
  );
  assert.equal(result.error, undefined);
}

/** A run that failed said why in `error`, and nothing else. */
export function assertFailure(result, error) {
  assert.equal(result.stdout, "", result.stderr);
  assert.match(result.error ?? "no error", error);
  assert.equal(result.stderr.match(/Error:/g).length, 1, result.stderr);
}

/** OpenCode's own file has an entry of ours, and no token. */
export function assertPlaceholder({ sandbox }) {
  const { type, access, refresh, expires } = sandbox.readJson(AUTH)["qwen-code"];
  assert.equal(type, "oauth");
  assert.match(access, PLACEHOLDER);
  assert.equal(refresh, access);
  assert.ok(expires > Date.now());
}

/** Nothing that the portal would refuse, and nothing that is wrong with the server itself. */
export function assertClean(server) {
  assert.deepEqual(server.violations, []);
  assert.deepEqual(server.failures, []);
}

/** The requests of an endpoint as `status account`. */
export function exchanges(server, endpoint) {
  return server.seen(endpoint).map(({ status, account }) => `${status} ${account}`);
}
