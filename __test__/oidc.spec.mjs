import assert from "node:assert/strict";
import { test } from "node:test";
import { endOf, qwen, rejection } from "./support/harness.mjs";
import { decideInBrowser, startOidcProvider } from "./support/oidc.mjs";

const { pollDeviceToken, refreshAccessToken, requestDeviceAuthorization } = qwen;

test("a certified OpenID provider accepts the device flow and the refresh, with options alone", async (t) => {
  const { url, options } = await startOidcProvider(t);
  const authorization = await requestDeviceAuthorization(options);
  assert.equal(authorization.verificationUri, `${url}/device`);
  assert.doesNotMatch(authorization.verificationUriComplete, /client=/);
  const polling = pollDeviceToken({ ...authorization, interval: 0.2 }, { ...options, signal: endOf(t) });
  const page = await decideInBrowser(authorization.verificationUriComplete, "approve");
  assert.match(page, /Sign-in Success/);
  const token = await polling;
  assert.ok(token.refreshToken);
  assert.equal(token.resourceUrl, undefined);
  assert.ok(Math.abs(token.expiresAt - Date.now() - 1_800_000) < 60_000);

  const refreshed = await refreshAccessToken(token.refreshToken, options);
  assert.notEqual(refreshed.accessToken, token.accessToken);
  assert.notEqual(refreshed.refreshToken, token.refreshToken, "it rotates");
  const again = await refreshAccessToken(refreshed.refreshToken, options);
  assert.ok(again.accessToken);

  const spent = refreshAccessToken(token.refreshToken, options);
  await rejection(spent, "ERR_QWEN_REFRESH_TOKEN_INVALID", { status: 400, oauthError: "invalid_grant" });
});

test("a denial on the provider's page ends the polling", async (t) => {
  const { options } = await startOidcProvider(t);
  const authorization = await requestDeviceAuthorization(options);
  const polling = pollDeviceToken({ ...authorization, interval: 0.2 }, { ...options, signal: endOf(t) });
  polling.catch(() => {});
  await decideInBrowser(authorization.verificationUriComplete, "deny");
  await rejection(polling, "ERR_QWEN_ACCESS_DENIED", { oauthError: "access_denied" });
});

test("the provider's own error code is reported", async (t) => {
  const { options } = await startOidcProvider(t);
  const unknown = { ...options, clientId: "nobody" };
  const code = "ERR_QWEN_DEVICE_AUTHORIZATION_FAILED";
  await rejection(requestDeviceAuthorization(unknown), code, { oauthError: "invalid_client" });
  await rejection(refreshAccessToken("never-issued", options), "ERR_QWEN_REFRESH_TOKEN_INVALID");
});
