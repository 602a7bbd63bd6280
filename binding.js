"use strict";

// Finds the compiled addon: the one built in this checkout, else the package for this platform that npm installed
// beside ours. Of several that might fit (glibc or musl) the one that loads is the right one.

const { existsSync } = require("node:fs");
const { join } = require("node:path");

const NAME = "opencode-qwen-cli-auth";

const TARGETS = {
  "linux-x64": ["linux-x64-gnu", "linux-x64-musl"],
  "linux-arm64": ["linux-arm64-gnu", "linux-arm64-musl"],
  "darwin-x64": ["darwin-x64"],
  "darwin-arm64": ["darwin-arm64"],
  "win32-x64": ["win32-x64"],
  "win32-arm64": ["win32-arm64"],
};

function load() {
  const platform = `${process.platform}-${process.arch}`;
  const reasons = [];
  for (const target of TARGETS[platform] ?? []) {
    const local = join(__dirname, `${NAME}.${target}.node`);
    for (const candidate of existsSync(local) ? [local] : [`${NAME}-${target}`]) {
      try {
        return require(candidate);
      } catch (error) {
        reasons.push(`${candidate}: ${firstLine(error)}`);
      }
    }
  }
  const looked = reasons.length > 0 ? `Looked for ${reasons.join("; ")}.` : "There is no build for it.";
  const advice = `Install ${NAME} again without --omit=optional, or see its README for the supported platforms.`;
  throw Object.assign(
    new Error(`The native part of ${NAME} could not be loaded on ${platform}. ${looked}\n${advice}`),
    {
      code: "ERR_QWEN_NATIVE_BINDING",
    },
  );
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n", 1)[0];
}

module.exports = { load };
