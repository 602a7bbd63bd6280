import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { qwen, startServer } from "./support/harness.mjs";

const { refreshAccessToken } = qwen;

// Most of them wait for a timer or a retry, so they run together.
describe("the refresh grant", { concurrency: true }, () => {
  test("a refresh sends the token unchanged, and returns its successor", async (t) => {
    const server = await startServer(t);
    const refreshToken = "a+b&c=d%20 ü/\u{1f680}?#;\"'\\";
    server.issueToken({ refresh_token: refreshToken });
    const before = Date.now();
    const token = await refreshAccessToken(refreshToken, { baseUrl: server.url });
    assert.deepEqual([server.violations, server.stats.redemptions], [[], 1]);
    assert.ok(server.issued.includes(token.refreshToken) && token.refreshToken !== refreshToken);
    assert.ok(token.expiresAt >= before + 21_600_000 && token.expiresAt <= Date.now() + 21_600_000);
  });

  test("an abort ends a refresh at once, even between tries", async (t) => {
    for (const step of ["hang", "html"]) {
      const server = await startServer(t);
      server.script("token", [{ do: step, times: Infinity }]);
      const { refresh_token } = server.issueToken();
      const controller = new AbortController();
      const options = { baseUrl: server.url, signal: controller.signal };
      const refreshing = refreshAccessToken(refresh_token, options);
      await server.waitFor("token");
      controller.abort();
      await assert.rejects(refreshing, { name: "AbortError" });
      assert.ok(server.stats.refreshes <= 2);
    }
  });
});
