import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import { endOf, qwen, rejection, sleep, startServer } from "./support/harness.mjs";

const { pollDeviceToken, requestDeviceAuthorization } = qwen;
const QUICK = { interval: 0.1 };

/** A server, and a login that waits for approval. */
async function login(t, { server: options, polls = [], authorization: changes } = {}) {
  const server = await startServer(t, { ...QUICK, ...options });
  server.script("token", polls);
  const authorization = await requestDeviceAuthorization({ baseUrl: server.url });
  return {
    server,
    authorization: { ...authorization, ...changes },
    options: { baseUrl: server.url, signal: endOf(t) },
  };
}

// Most of them wait for a timer or a retry, so they run together.
describe("device authorization", { concurrency: true }, () => {
  test("a device authorization request follows RFC 8628, RFC 7636 and Qwen", async (t) => {
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
    assert.equal(entry.headers["content-type"], "application/x-www-form-urlencoded");
    assert.equal(entry.headers.accept, "application/json");
    assert.match(entry.headers["user-agent"], /^opencode-qwen-cli-auth\/\d/);
    assert.match(
      entry.headers["x-request-id"],
      /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/,
    );
    assert.equal(entry.headers.authorization, undefined);
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
    const again = await requestDeviceAuthorization({ baseUrl: server.url });
    assert.notEqual(again.codeVerifier, authorization.codeVerifier);
    assert.notEqual(server.seen("device")[1].headers["x-request-id"], entry.headers["x-request-id"]);
  });

  test("missing fields of a device authorization answer get defaults", async (t) => {
    const server = await startServer(t, { interval: null, clientId: null });
    const ask = (step, options) => {
      server.script("device", [step]);
      return requestDeviceAuthorization({ baseUrl: server.url, ...options });
    };
    const bare = await ask({ omit: ["verification_uri_complete"] });
    assert.equal(bare.interval, 5);
    assert.equal(bare.verificationUriComplete, `${server.url}/authorize?client=qwen-code`);
    const complete = "https://chat.qwen.ai/authorize?a=%26&user_code=AB-CD#top";
    const added = await ask({ override: { verification_uri_complete: complete } });
    const url = new URL(added.verificationUriComplete);
    assert.deepEqual(
      [...url.searchParams],
      [
        ["a", "&"],
        ["user_code", "AB-CD"],
        ["client", "qwen-code"],
      ],
    );
    const foreign = await ask({ omit: ["verification_uri_complete"] }, { clientId: "mine" });
    assert.equal(foreign.verificationUriComplete, foreign.verificationUri);
    assert.equal(server.seen("device").at(-1).body.client_id, "mine");
  });

  test("polling survives every temporary failure, and gets the token", async (t) => {
    const polls = [
      "pending",
      "status_pending",
      "html",
      { do: "server_error", status: 500 },
      { status: 400, body: "<html>" },
      { status: 200, body: "" },
      "reset",
      "close",
      "garbage",
    ];
    const { server, authorization, options } = await login(t, { polls });
    server.approve(authorization.userCode);
    const before = Date.now();
    const token = await pollDeviceToken(authorization, options);
    assert.equal(server.stats.polls, polls.length + 1);
    assert.ok(server.issued.includes(token.accessToken) && server.issued.includes(token.refreshToken));
    assert.deepEqual([token.tokenType, token.resourceUrl], ["Bearer", server.url]);
    assert.ok(token.expiresAt >= before + 21_600_000 && token.expiresAt <= Date.now() + 21_600_000);
    assert.deepEqual(server.violations, []);
    const entry = server.seen("token")[0];
    assert.match(entry.headers["user-agent"], /^opencode-qwen-cli-auth\/\d/);
    assert.deepEqual(entry.body, {
      grant_type: "urn:ietf:params:oauth:grant-type:device_code",
      client_id: "f0304373b74a44d2b584a3fb70ca9e56",
      device_code: authorization.deviceCode,
      code_verifier: authorization.codeVerifier,
    });
    assert.equal(entry.headers["x-request-id"], undefined);
  });

  test("a denial and an expiry end the polling with their codes", async (t) => {
    const denied = await login(t);
    denied.server.deny(denied.authorization.userCode);
    await rejection(pollDeviceToken(denied.authorization, denied.options), "ERR_QWEN_ACCESS_DENIED");
    const late = await login(t);
    late.server.expire(late.authorization.userCode);
    await rejection(pollDeviceToken(late.authorization, late.options), "ERR_QWEN_DEVICE_CODE_EXPIRED");
    const wrong = await login(t, { authorization: { codeVerifier: "x".repeat(43) } });
    wrong.server.approve(wrong.authorization.userCode);
    const error = await rejection(
      pollDeviceToken(wrong.authorization, wrong.options),
      "ERR_QWEN_OAUTH_ERROR",
    );
    assert.equal(error.oauthError, "invalid_grant");
  });

  test("an abort ends the polling at once with its reason, and nothing more is sent", async (t) => {
    const { server, authorization, options } = await login(t, { polls: ["pending", "hang"] });
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
