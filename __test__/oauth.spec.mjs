import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import { qwen, rejection, sleep, startServer } from "./support/harness.mjs";

const { pollDeviceToken, requestDeviceAuthorization } = qwen;
const QUICK = { interval: 0.1 };

// Most of them wait for a timer or a retry, so they run together.
describe("device authorization", { concurrency: true }, () => {
  test("a login follows RFC 8628, RFC 7636 and Qwen", async (t) => {
    const server = await startServer(t, { interval: 2, deviceExpiresIn: 600 });
    const authorization = await requestDeviceAuthorization({ baseUrl: server.url });
    const [entry] = server.seen("device");
    assert.deepEqual(server.violations, []);
    assert.match(authorization.codeVerifier, /^[A-Za-z0-9_-]{43}$/);
    assert.deepEqual(entry.body, {
      client_id: "f0304373b74a44d2b584a3fb70ca9e56",
      scope: "openid profile email model.completion",
      code_challenge: createHash("sha256").update(authorization.codeVerifier).digest("base64url"),
      code_challenge_method: "S256",
    });
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

  test("each endpoint has its own option, and the environment sets the base", async (t) => {
    const [devices, tokens] = [await startServer(t, QUICK), await startServer(t, { clientId: "mine" })];
    const named = {
      baseUrl: "https://nobody.invalid",
      deviceAuthorizationEndpoint: `${devices.url}/api/v1/oauth2/device/code`,
      tokenEndpoint: `${tokens.url}/api/v1/oauth2/token`,
    };
    const authorization = await requestDeviceAuthorization(named);
    tokens.script("token", ["denied"]);
    const options = { ...named, clientId: "mine", scope: "a b" };
    await rejection(pollDeviceToken(authorization, options), "ERR_QWEN_ACCESS_DENIED");
    assert.deepEqual([devices.stats.tokenRequests, tokens.stats.polls], [0, 1]);
    process.env.OPENCODE_QWEN_OAUTH_BASE_URL = `${devices.url}/`;
    t.after(() => delete process.env.OPENCODE_QWEN_OAUTH_BASE_URL);
    await requestDeviceAuthorization();
    assert.equal(devices.stats.deviceRequests, 2);
    process.env.OPENCODE_QWEN_OAUTH_BASE_URL = "http://chat.qwen.ai";
    await rejection(requestDeviceAuthorization(), "ERR_QWEN_INVALID_CONFIG");
    await requestDeviceAuthorization({ baseUrl: devices.url });
    assert.equal(devices.stats.deviceRequests, 3);
  });
});
