"use strict";

// Looks for anything that keeps requests from working. The core does it; this file adds the check of the addon itself.

const { name, version } = require("../package.json");
const { addonVersion, call } = require("./native");

const ID = "native-binary";

/**
 * See `QwenClient.doctor` in index.d.ts.
 *
 * @param {object} settings of the client, as the core takes them
 * @param {Record<string, string>} env
 * @param {object} [options] those of `call`
 */
async function examine(settings, env, options) {
  let native;
  try {
    native = addonVersion();
  } catch (error) {
    return [unloadable(error)];
  }
  const findings = await call((bridge, id) => bridge.examine(id, settings, env, process.cwd()), options);
  return [versionOf(native), ...findings];
}

function unloadable(error) {
  const fix = `npm install --include=optional ${name}@${version}, on this machine`;
  return { id: ID, state: "broken", message: error.message.replaceAll("\n", " "), fix };
}

function versionOf(native) {
  const platform = `${process.platform}-${process.arch}`;
  if (native === version) {
    return { id: ID, state: "ok", message: `The native part (${version}, ${platform}) is loaded.` };
  }
  const message = `The native part is version ${native}, and the package is ${version}.`;
  return { id: ID, state: "broken", message, fix: `npm install --include=optional ${name}@${version}` };
}

module.exports = { examine };
