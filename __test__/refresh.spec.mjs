import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { qwen, startServer } from "./support/harness.mjs";

const { refreshAccessToken } = qwen;

/** A server with scripted answers to the refreshes of one login. */
async function scripted(t, steps, options) {
  const server = await startServer(t, options);
  const { refresh_token } = server.issueToken();
  server.script("token", steps);
  const refresh = (more) => refreshAccessToken(refresh_token, { baseUrl: server.url, ...more });
  return { server, refresh, refreshToken: refresh_token };
}

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
