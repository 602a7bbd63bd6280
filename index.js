"use strict";

// OpenCode calls every own export as a plugin, so there is exactly one. The API is inherited, which keeps
// `require("opencode-qwen-cli-auth").createClient` working without a second registration.
//
// The API is loaded at its first use, so that importing the package costs almost nothing.

const NAMES = [
  "QwenAuthError",
  "createClient",
  "fetch",
  "pollDeviceToken",
  "refreshAccessToken",
  "requestDeviceAuthorization",
];

/** See `QwenAuthPlugin` in index.d.ts. */
async function QwenAuthPlugin(input, options) {
  return require("./lib/plugin").QwenAuthPlugin(input, options);
}

const api = { QwenAuthPlugin };
for (const name of NAMES) {
  Object.defineProperty(api, name, { get: () => require("./lib/api")[name], enumerable: true });
}

module.exports = Object.create(api, {
  __esModule: { value: true },
  default: { value: QwenAuthPlugin, enumerable: true },
});
