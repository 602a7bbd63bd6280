"use strict";

// The public functions. index.d.ts documents them.

const { QwenAuthError, invalidArgument } = require("./errors");
const { QwenClient } = require("./client");
const { call } = require("./native");
const { QwenAuthPlugin } = require("./plugin");
const validate = require("./validate");

function oauthCall(options, start) {
  const { signal, ...settings } = validate.oauthOptions(options);
  const env = validate.environment(process.env, "process.env");
  return call((bridge, id) => start(bridge, id, settings, env), { signal });
}

async function requestDeviceAuthorization(options) {
  return oauthCall(options, (bridge, id, settings, env) =>
    bridge.requestDeviceAuthorization(id, settings, env),
  );
}

async function pollDeviceToken(authorization, options) {
  const checked = validate.deviceAuthorization(authorization);
  return oauthCall(options, (bridge, id, settings, env) =>
    bridge.pollDeviceToken(id, checked, settings, env),
  );
}

async function refreshAccessToken(refreshToken, options) {
  if (typeof refreshToken !== "string" || refreshToken === "") {
    throw invalidArgument("refreshToken", "must be a non-empty string");
  }
  return oauthCall(options, (bridge, id, settings, env) =>
    bridge.refreshAccessToken(id, refreshToken, settings, env),
  );
}

function createClient(options) {
  return new QwenClient(validate.clientOptions(options), false);
}

let defaultClient;

async function fetch(input, init) {
  defaultClient ??= createClient();
  return defaultClient.fetch(input, init);
}

module.exports = {
  QwenAuthError,
  QwenAuthPlugin,
  createClient,
  fetch,
  pollDeviceToken,
  refreshAccessToken,
  requestDeviceAuthorization,
};
