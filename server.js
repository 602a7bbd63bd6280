"use strict";

// What OpenCode loads from 1.3.4 on. OpenCode 1.x calls `server`, OpenCode 2 calls `setup`. OpenCode 2 looks for this file by
// its name, and takes no function; older versions load index.js, and take nothing but one.

const id = "opencode-qwen-cli-auth";

/** See `QwenAuthPlugin` in index.d.ts. */
async function server(input, options) {
  return require("./lib/plugin").QwenAuthPlugin(input, options);
}

/** Called by OpenCode 2 once for each directory. Resolves with what is to be done on unload. */
async function setup(context) {
  // OpenCode 1.18 has an early form of this inside, and calls `server` too.
  if (typeof context?.provider?.transform !== "function") return undefined;
  return require("./lib/opencode2").setup(context);
}

// Written in short, the only form in which Node finds the names for `import`.
module.exports = { id, setup, server };
