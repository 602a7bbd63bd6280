"use strict";

/**
 * Whether this is the main thread. Asked when it matters, since loading Node's module for it takes as long as the rest of
 * this package.
 */
function isMainThread() {
  return globalThis.Bun?.isMainThread ?? require("node:worker_threads").isMainThread;
}

module.exports = { isMainThread };
