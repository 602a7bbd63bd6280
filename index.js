"use strict";

// OpenCode calls every own export it finds as a plugin, so there is exactly one; the API is inherited. That way
// `require("opencode-qwen-cli-auth").createClient` works, and nothing is registered twice.
//
// The rest is loaded at the first use of any of it: importing the package costs next to nothing.

const FUNCTIONS = [
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
for (const name of FUNCTIONS) {
  Object.defineProperty(api, name, { get: () => require("./lib/api")[name], enumerable: true });
}

module.exports = Object.create(api, {
  __esModule: { value: true },
  default: { value: QwenAuthPlugin, enumerable: true },
});
