"use strict";

// OpenCode 1.3.4 and later load this file. OpenCode 1.x calls `server`, and OpenCode 2 calls `setup`. OpenCode 2 finds this file
// by its name and needs an object. Older versions load index.js and need a function.

const id = "opencode-qwen-cli-auth";

/** See `QwenAuthPlugin` in index.d.ts. */
async function server(input, options) {
  return require("./lib/plugin").QwenAuthPlugin(input, options);
}

/** Called by OpenCode 2 once for each directory. Resolves with a function to call on unload. */
async function setup(context) {
  // OpenCode 1.18 contains an early form of OpenCode 2, and calls `server` too.
  if (typeof context?.provider?.transform !== "function") return undefined;
  return require("./lib/opencode2").setup(context);
}

// Node only finds the names for `import` in this short form.
module.exports = { id, setup, server };
