import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { qwen, rejection, startServer } from "./support/harness.mjs";

const { refreshAccessToken } = qwen;

/** A server that answers the refreshes of one login as scripted. */
async function scripted(t, steps, options) {
  const server = await startServer(t, options);
  const { refresh_token } = server.issueToken();
  server.script("token", steps);
  const refresh = (more) => refreshAccessToken(refresh_token, { baseUrl: server.url, ...more });
  return { server, refresh, refreshToken: refresh_token };
}

/** Runs a case for each entry at once: most of them wait for retries. */
const forEach = (cases, run) => Promise.all(cases.map((entry) => run(...[entry].flat(1))));

// Most of them wait for a timer or a retry, so they wait together.
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

  test("a token with every kind of character reaches the server as it is", async (t) => {
    const server = await startServer(t);
    const strange = "a+b&c=d%20 ü/\u{1f680}?#;\"'\\";
    server.issueToken({ refresh_token: strange });
    await refreshAccessToken(strange, { baseUrl: server.url });
    assert.equal(server.stats.redemptions, 1);
  });

  test("without a verdict it is tried three times at most, and the login is kept", async (t) => {
    const location = "/v1/models";
    const cases = [
      ["server_error", { status: 503, code: "ERR_QWEN_OAUTH_ERROR" }],
      ["html", { status: 504, code: "ERR_QWEN_OAUTH_ERROR" }],
      [{ status: 429, body: {} }, { status: 429 }],
      [{ status: 429, body: { error: "invalid_grant" } }, { status: 429 }],
      [{ status: 500, body: { error: "invalid_grant" } }, { status: 500 }],
      [{ status: 400, body: "<html>" }, { status: 400 }],
      [{ status: 400, body: { error: "temporarily_unavailable" } }, { status: 400 }],
      [{ status: 401, body: "<html>" }, { status: 401 }],
      [{ status: 403, body: "<html>captive portal</html>" }, { status: 403 }],
      [{ status: 403, body: { error: { code: 1 } } }, { status: 403 }],
      [{ do: "redirect", location, status: 302 }, { status: 302 }],
      [{ do: "redirect", location }, { status: 307 }],
      [{ status: 200, body: "<html>log in to the wifi</html>" }, { status: 200 }],
      [{ status: 200, body: "" }, { status: 200 }],
      ["binary", { status: 200 }],
      ["reset", { code: "ERR_QWEN_NETWORK" }],
      ["close", { code: "ERR_QWEN_NETWORK" }],
      ["garbage", { code: "ERR_QWEN_NETWORK" }],
      ["hang", { code: "ERR_QWEN_TIMEOUT" }],
      [{ body: "{", headers: { "content-length": "99" }, end: "silence" }, { code: "ERR_QWEN_TIMEOUT" }],
      [{ body: "{", headers: { "content-length": "99" }, end: "reset" }, { code: "ERR_QWEN_NETWORK" }],
    ];
    await forEach(cases, async (step, cause) => {
      const given = typeof step === "string" ? { do: step } : step;
      const { server, refresh } = await scripted(t, [{ ...given, times: Infinity }]);
      const fields = { retryable: true };
      const error = await rejection(
        refresh({ timeoutMs: cause.code === "ERR_QWEN_TIMEOUT" ? 1000 : undefined }),
        "ERR_QWEN_REFRESH_UNAVAILABLE",
        fields,
      );
      for (const [name, value] of Object.entries(cause))
        assert.equal(error.cause[name], value, JSON.stringify(step));
      assert.equal(server.stats.refreshes, 3, JSON.stringify(step));
      assert.deepEqual([server.stats.redemptions, server.stats.models], [0, 0]);
    });
  });

  test("a server that comes back in time is enough", async (t) => {
    const cases = [["html", "reset"], ["server_error"], ["close", "garbage"], [{ status: 403, body: "" }]];
    await Promise.all(
      cases.map(async (steps) => {
        const { server, refresh } = await scripted(t, steps);
        const token = await refresh();
        assert.ok(server.issued.includes(token.accessToken));
        assert.deepEqual([server.stats.refreshes, server.stats.redemptions], [steps.length + 1, 1]);
      }),
    );
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

  test("a refused token's error says nothing that a server could smuggle into a terminal", async (t) => {
    const { refresh } = await scripted(t, [{ status: 400, body: { error: "invalid_grant" } }]);
    await rejection(refresh(), "ERR_QWEN_REFRESH_TOKEN_INVALID");
    const nasty = { status: 401, body: { error: "\u001b[2J\n<script>", error_description: "\u001b[31m" } };
    const { refresh: again } = await scripted(t, [nasty]);
    const error = await rejection(again(), "ERR_QWEN_REFRESH_TOKEN_INVALID");
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(`${error.message}${error.oauthError}`, /[\u0000-\u001f]/);
  });

  test("a success without a usable access token is no token, and is not asked for again", async (t) => {
    const cases = [
      [{ omit: ["access_token"] }],
      [{ override: { access_token: "" } }],
      [{ override: { access_token: 7 } }],
      [{ override: { access_token: null } }],
      [{ override: { access_token: "a\r\nX-Injected: 1" } }],
      [{ status: 200, body: [] }],
      [{ status: 200, body: "null" }],
      [{ status: 200, body: '"token"' }],
    ];
    await forEach(cases, async (step) => {
      const { server, refresh } = await scripted(t, [step]);
      await rejection(refresh(), "ERR_QWEN_INVALID_RESPONSE", { retryable: false });
      assert.equal(server.stats.refreshes, 1, JSON.stringify(step));
    });
  });

  test("what is usable of an answer is kept, since the old token is spent", async (t) => {
    const optional = ["refresh_token", "resource_url", "scope", "token_type", "expires_in"];
    const hourFromNow = (token) => Math.abs(token.expiresAt - Date.now() - 3_600_000) < 60_000;
    for (const value of [undefined, null, 7.5, [], {}, ""]) {
      const override = Object.fromEntries(optional.map((name) => [name, value]));
      if (value === 7.5) override.expires_in = "7.5";
      const step = value === undefined ? { omit: optional } : { override };
      const { refresh } = await scripted(t, [step]);
      const token = await refresh();
      assert.ok(hourFromNow(token), `${JSON.stringify(value)}: ${token.expiresAt - Date.now()}`);
      assert.equal(token.tokenType, "Bearer");
      assert.deepEqual(
        [token.refreshToken, token.resourceUrl, token.scope],
        [undefined, undefined, undefined],
      );
    }
    for (const expires_in of [-1, 1e308, 0, 0.5]) {
      const { refresh } = await scripted(t, [{ override: { expires_in } }]);
      const { expiresAt } = await refresh();
      assert.ok(
        Number.isSafeInteger(expiresAt) && !Number.isNaN(new Date(expiresAt).getTime()),
        String(expires_in),
      );
    }
  });

  test("an endless answer is given up after its first mebibyte", async (t) => {
    const { server, refresh } = await scripted(t, [{ do: "huge", bytes: 200e6 }]);
    const error = await rejection(refresh(), "ERR_QWEN_INVALID_RESPONSE", { status: 200 });
    assert.match(error.message, /1 MiB/);
    const entry = await server.waitFor((it) => it.finishedAt);
    // What the sockets' buffers hold comes on top of what was read.
    assert.ok(entry.closedByClient && entry.bytes < 30e6, `${entry.bytes} bytes were taken`);
    assert.equal(server.stats.refreshes, 1);
  });

  test("Retry-After is heeded up to a few seconds, and told beyond", async (t) => {
    const short = { status: 429, body: {}, headers: { "retry-after": "1" } };
    const { server, refresh } = await scripted(t, [short]);
    await refresh();
    const [first, second] = server.seen("token").map(({ at }) => at);
    assert.ok(second - first >= 990, `${second - first} ms`);
    const long = { status: 503, body: {}, headers: { "retry-after": "3600" } };
    const { server: busy, refresh: tell } = await scripted(t, [long]);
    await rejection(tell(), "ERR_QWEN_REFRESH_UNAVAILABLE", { retryAfterMs: 3_600_000 });
    assert.equal(busy.stats.refreshes, 1);
  });

  test("no server at all is no verdict", async (t) => {
    const server = await startServer(t);
    const { refresh_token } = server.issueToken();
    await server.close();
    const refresh = refreshAccessToken(refresh_token, { baseUrl: server.url });
    const error = await rejection(refresh, "ERR_QWEN_REFRESH_UNAVAILABLE", { retryable: true });
    assert.equal(error.cause.code, "ERR_QWEN_NETWORK");
  });

  test("an abort ends a refresh at once, between its tries too", async (t) => {
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
