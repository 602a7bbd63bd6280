"use strict";

// Paths of the files for display. The core finds the files itself.

const { homedir } = require("node:os");
const { join, resolve } = require("node:path");

function qwenDirectory(env) {
  const named = env.QWEN_HOME;
  if (!named) return join(homedir(), ".qwen");
  return resolve(named.replace(/^~(?=$|[/\\])/, () => homedir()));
}

function credentialsFile(env) {
  return join(qwenDirectory(env), "oauth_creds.json");
}

module.exports = { credentialsFile, qwenDirectory };
