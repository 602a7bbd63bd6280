"use strict";

// OpenCode calls every own export it finds as a plugin, so there is exactly one; the API is inherited. That way
// `require("opencode-qwen-cli-auth").createClient` works, and nothing is registered twice.

const api = require("./lib/api");

module.exports = Object.create(api, {
  __esModule: { value: true },
  default: { value: api.QwenAuthPlugin, enumerable: true },
});
