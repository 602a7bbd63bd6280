import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { qwen, rejection, sleep, startServer } from "./support/harness.mjs";

const { pollDeviceToken, refreshAccessToken, requestDeviceAuthorization } = qwen;
const QUICK = { interval: 0.1 };

// Most of them wait for a timer or a retry, so they run together.
describe("the functions without a client", { concurrency: true }, () => {
  test("a login gives an authorization and a token", async (t) => {
    const server = await startServer(t, { interval: 2, deviceExpiresIn: 600 });
    const authorization = await requestDeviceAuthorization({ baseUrl: server.url });
    assert.deepEqual(server.violations, []);
    assert.deepEqual(Object.keys(authorization).sort(), [
      "codeVerifier",
      "deviceCode",
      "expiresIn",
      "interval",
      "userCode",
      "verificationUri",
      "verificationUriComplete",
    ]);
    assert.deepEqual([authorization.interval, authorization.expiresIn], [2, 600]);
    assert.equal(authorization.verificationUri, `${server.url}/authorize`);
    server.approve(authorization.userCode);
    const before = Date.now();
    const token = await pollDeviceToken({ ...authorization, interval: 0.1 }, { baseUrl: server.url });
    assert.ok(server.issued.includes(token.accessToken) && server.issued.includes(token.refreshToken));
    assert.deepEqual([token.tokenType, token.resourceUrl], ["Bearer", server.url]);
    assert.ok(token.expiresAt >= before + 21_600_000 && token.expiresAt <= Date.now() + 21_600_000);
    assert.deepEqual(server.violations, []);
  });

  test("an abort ends the polling at once with its reason, and nothing more is sent", async (t) => {
    const server = await startServer(t, QUICK);
    server.script("token", ["pending", "hang"]);
    const options = { baseUrl: server.url };
    const authorization = await requestDeviceAuthorization(options);
    const waiting = new AbortController();
    const polling = pollDeviceToken(authorization, { ...options, signal: waiting.signal });
    await server.waitFor("token", { count: 2 });
    const reason = new Error("enough");
    waiting.abort(reason);
    await assert.rejects(polling, (error) => error === reason);
    await server.waitFor((entry) => entry.step === "hang" && entry.closedByClient);
    await sleep(400);
    assert.equal(server.stats.polls, 2);
    await assert.rejects(pollDeviceToken(authorization, { ...options, signal: AbortSignal.abort() }), {
      name: "AbortError",
    });
    assert.equal(server.stats.polls, 2);
    server.script("device", ["hang"]);
    const asking = new AbortController();
    const request = requestDeviceAuthorization({ ...options, signal: asking.signal });
    await server.waitFor("device", { count: 2 });
    asking.abort();
    await assert.rejects(request, { name: "AbortError" });
  });

  test("the environment sets the server at each call, and an option wins", async (t) => {
    const server = await startServer(t, QUICK);
    t.after(() => delete process.env.OPENCODE_QWEN_OAUTH_BASE_URL);
    process.env.OPENCODE_QWEN_OAUTH_BASE_URL = `${server.url}/`;
    await requestDeviceAuthorization();
    process.env.OPENCODE_QWEN_OAUTH_BASE_URL = "http://chat.qwen.ai";
    await rejection(requestDeviceAuthorization(), "ERR_QWEN_INVALID_CONFIG");
    await requestDeviceAuthorization({ baseUrl: server.url });
    assert.equal(server.stats.deviceRequests, 2);
  });

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
