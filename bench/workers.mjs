// Starts the server, the contenders and single starts, and communicates with them.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { bun as openCodeBun, bunEnvironment } from "../__test__/support/bun.mjs";
import { CONTENDERS } from "./contenders.mjs";
import { environmentOf, makeHome, removeHome } from "./homes.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const MARK = "\u0001bench ";
/** A contender that doesn't answer in this time is left out, in milliseconds. */
const PATIENCE_MS = 120_000;

const ownBun = join(here, "node_modules/bun-linux-x64/bin/bun");

/** @type {Record<string, {title: string, command?: string, args: string[], env: Record<string, string>}>} */
export const RUNTIMES = {
  node: { title: `Node ${process.versions.node}`, command: process.execPath, args: ["--expose-gc"], env: {} },
  bun: { title: "Bun", command: ownBun, args: [], env: {} },
  opencode: { title: "the Bun of OpenCode", command: openCodeBun, args: [], env: bunEnvironment },
};

/** Adds each Bun's version to its title and removes missing ones. */
export async function findRuntimes(wanted) {
  for (const [name, runtime] of Object.entries(RUNTIMES)) {
    if (runtime.command === undefined || !existsSync(runtime.command) || !wanted.includes(name)) {
      delete RUNTIMES[name];
    } else if (name !== "node") {
      const version = await firstLine(runtime.command, ["--version"], runtime.env);
      runtime.title = name === "bun" ? `Bun ${version}` : `OpenCode's Bun ${version}`;
    }
  }
}

function firstLine(command, args, env) {
  const child = spawn(command, args, {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    createInterface({ input: child.stdout }).once("line", resolve);
  });
}

export async function startServer() {
  const child = spawn(process.execPath, [join(here, "server.mjs")], { stdio: ["pipe", "pipe", "inherit"] });
  const origin = await new Promise((resolve) =>
    createInterface({ input: child.stdout }).once("line", resolve),
  );
  const get = async (path) => (await fetch(`${origin}${path}`)).json();
  return {
    origin,
    stats: () => get("/stats"),
    delay: (ms) => get(`/delay/${ms}`),
    stop: () => child.stdin.end(),
  };
}

/** Runs a script of this directory in a runtime. Its marked lines are messages. */
function runScript(runtime, script, args, env) {
  const { command, args: runtimeArgs, env: runtimeEnv } = RUNTIMES[runtime];
  return runProgram(command, [...runtimeArgs, join(here, script), ...args], { ...env, ...runtimeEnv });
}

function runProgram(command, args, env) {
  const child = spawn(command, args, { env, stdio: ["pipe", "pipe", "pipe"] });
  let errors = "";
  child.stderr.on("data", (text) => (errors = `${errors}${text}`.slice(-2_000)));
  const waiting = [];
  const arrived = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    if (!line.startsWith(MARK)) return;
    const message = JSON.parse(line.slice(MARK.length));
    const next = waiting.shift();
    if (next === undefined) arrived.push(message);
    else next.resolve(message);
  });
  child.on("exit", (code, signal) => {
    for (const { reject } of waiting.splice(0)) {
      reject(new Error(`${command} ended (${signal ?? code}): ${errors.trim().split("\n").at(-1)}`));
    }
  });
  child.stdin.on("error", () => {});

  async function receive() {
    let timer;
    const message =
      arrived.shift() ??
      (await new Promise((resolve, reject) => {
        timer = setTimeout(() => reject(new Error("did not answer in time")), PATIENCE_MS);
        waiting.push({ resolve, reject });
      }).finally(() => clearTimeout(timer)));
    if (message.error !== undefined) throw new Error(message.error);
    return message.value;
  }
  return { child, receive };
}

/** Starts a contender that takes commands. */
export async function startContender(runtime, contender, origin, homeOptions) {
  const home = makeHome(origin, homeOptions);
  const state = homeOptions?.isExpired ? ["expired"] : [];
  const environment = environmentOf(home, origin);
  const { program } = CONTENDERS[contender];
  const { child, receive } = program
    ? runProgram(program, [origin], environment)
    : runScript(runtime, "child.mjs", [contender, origin, ...state], environment);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  async function stop() {
    child.kill();
    await ended;
    removeHome(home);
  }
  try {
    await receive();
  } catch (error) {
    await stop();
    throw error;
  }
  const ask = (command) => {
    child.stdin.write(`${JSON.stringify(command)}\n`);
    return receive();
  };
  return { ask, stop, pid: child.pid, home };
}

/** Measures one start in a new process. */
export async function measureStart(runtime, contender, what, origin, home) {
  const { child, receive } = runScript(runtime, "start.mjs", [contender, what], environmentOf(home, origin));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const result = await receive();
  await ended;
  return result;
}
