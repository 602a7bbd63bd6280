import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { qwen, rejection, startServer } from "./support/harness.mjs";

const { refreshAccessToken } = qwen;

/** A server with scripted answers to the refreshes of one login. */
async function scripted(t, steps, options) {
  const server = await startServer(t, options);
  const { refresh_token } = server.issueToken();
  server.script("token", steps);
  const refresh = (more) => refreshAccessToken(refresh_token, { baseUrl: server.url, ...more });
  return { server, refresh, refreshToken: refresh_token };
}

/** Runs all cases at once: most of them wait for retries. */
const forEach = (cases, run) => Promise.all(cases.map((entry) => run(...[entry].flat(1))));

// Most of them wait for a timer or a retry, so they run together.
describe("the refresh grant", { concurrency: true }, () => {
  test("a refresh redeems the token once, with the form of RFC 6749", async (t) => {
    const { server, refresh, refreshToken } = await scripted(t, []);
    const before = Date.now();
    const token = await refresh();
    const [entry] = server.seen("token");
    assert.deepEqual(entry.body, {
      grant_type: "refresh_token",
      refresh_token: refreshToken,
      client_id: "f0304373b74a44d2b584a3fb70ca9e56",
    });
    assert.equal(entry.headers["content-type"], "application/x-www-form-urlencoded");
    assert.equal(entry.headers.accept, "application/json");
    assert.match(entry.headers["user-agent"], /^opencode-qwen-cli-auth\/\d/);
    assert.deepEqual([server.violations, server.stats.redemptions, server.stats.refreshes], [[], 1, 1]);
    assert.notEqual(token.refreshToken, refreshToken);
    assert.ok(token.expiresAt >= before + 21_600_000 && token.expiresAt <= Date.now() + 21_600_000);
    const next = await refreshAccessToken(token.refreshToken, { baseUrl: server.url });
    assert.notEqual(next.accessToken, token.accessToken);
  });

  test("a token with every kind of character reaches the server unchanged", async (t) => {
    const server = await startServer(t);
    const strange = "a+b&c=d%20 ü/\u{1f680}?#;\"'\\";
    server.issueToken({ refresh_token: strange });
    await refreshAccessToken(strange, { baseUrl: server.url });
    assert.equal(server.stats.redemptions, 1);
  });

  test("a verdict is final after one request", async (t) => {
    const cases = [
      [400, "invalid_grant"],
      [400, "invalid_request"],
      [400, "invalid_client"],
      [400, "unauthorized_client"],
      [401, "whatever"],
      [403, "access_denied"],
    ];
    await forEach(cases, async (status, error) => {
      const { server, refresh } = await scripted(t, [{ status, body: { error } }]);
      const fields = { status, oauthError: error, retryable: false };
      await rejection(refresh(), "ERR_QWEN_REFRESH_TOKEN_INVALID", fields);
      assert.equal(server.stats.refreshes, 1);
    });
    const { server, refreshToken } = await scripted(t, []);
    server.revokeRefresh(refreshToken);
    const options = { baseUrl: server.url };
    await rejection(refreshAccessToken(refreshToken, options), "ERR_QWEN_REFRESH_TOKEN_INVALID");
  });

  test("a refused token's error has no control characters from the server", async (t) => {
    const { refresh } = await scripted(t, [{ status: 400, body: { error: "invalid_grant" } }]);
    await rejection(refresh(), "ERR_QWEN_REFRESH_TOKEN_INVALID");
    const nasty = { status: 401, body: { error: "\u001b[2J\n<script>", error_description: "\u001b[31m" } };
    const { refresh: again } = await scripted(t, [nasty]);
    const error = await rejection(again(), "ERR_QWEN_REFRESH_TOKEN_INVALID");
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(`${error.message}${error.oauthError}`, /[\u0000-\u001f]/);
  });

  test("an abort ends a refresh at once, even between tries", async (t) => {
    for (const step of ["hang", "html"]) {
      const { server, refresh } = await scripted(t, [{ do: step, times: Infinity }]);
      const controller = new AbortController();
      const refreshing = refresh({ signal: controller.signal });
      await server.waitFor("token");
      controller.abort();
      await assert.rejects(refreshing, { name: "AbortError" });
      assert.ok(server.stats.refreshes <= 2);
    }
  });
});
