"use strict";

// Looks for anything that keeps requests from working. The core does it; this file adds the check of the addon itself.

const { name, version } = require("../package.json");
const { call, connect } = require("./native");

const ID = "native-binary";

/**
 * See `QwenClient.doctor` in index.d.ts.
 *
 * @param {object} settings of the client, as the core takes them
 * @param {Record<string, string>} env
 * @param {object} [options] those of `call`
 */
async function examine(settings, env, options) {
  try {
    connect();
  } catch (error) {
    const fix = `npm install --include=optional ${name}@${version}, on this machine`;
    return [{ id: ID, state: "broken", message: error.message.replaceAll("\n", " "), fix }];
  }
  const message = `The native part (${version}, ${process.platform}-${process.arch}) is loaded.`;
  const findings = await call((bridge, id) => bridge.examine(id, settings, env, process.cwd()), options);
  return [{ id: ID, state: "ok", message }, ...findings];
}

module.exports = { examine };
