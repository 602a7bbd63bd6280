// Shared by the scripts: runs commands, and installs the dependencies of a fresh clone.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

useInstalledToolchain();

/**
 * rustup finds a toolchain by its name alone, and may not be able to download the pinned one. If the toolchain that is
 * installed as "stable" has the pinned version, cargo uses that.
 */
function useInstalledToolchain() {
  if (process.env.RUSTUP_TOOLCHAIN) return;
  const rustup = (...args) => spawnSync("rustup", args, { cwd: root, encoding: "utf8" }).stdout ?? "";
  const installed = rustup("toolchain", "list");
  const [, pinned] = /^channel = "(.+)"$/m.exec(readFileSync(join(root, "rust-toolchain.toml"), "utf8"));
  if (!/^stable-/m.test(installed) || installed.includes(`${pinned}-`)) return;
  if (rustup("run", "stable", "rustc", "--version").startsWith(`rustc ${pinned} `)) {
    process.env.RUSTUP_TOOLCHAIN = "stable";
  }
}

/** Runs a command in the repository, its output on the terminal. Exits with its code if it fails. */
export async function run(command, args, options = {}) {
  const code = await exitCode(command, args, options);
  if (code !== 0) {
    console.error(`${command} ${args.join(" ")} failed (${code}).`);
    process.exit(code);
  }
}

/** Runs a step and prints how long it took. */
export async function timed(name, step) {
  const start = performance.now();
  const result = await step();
  console.log(`${name}: ${((performance.now() - start) / 1000).toFixed(0)} s`);
  return result;
}

/**
 * Like `run`, but returns the exit code. `quiet` hides the output. `onOutput` receives the output in pieces. With `isHeld`
 * the output is shown at the end, so that it does not mix with that of other commands.
 */
export function exitCode(
  command,
  args,
  { cwd = root, env = {}, quiet = false, isHeld = false, onOutput } = {},
) {
  return new Promise((resolve, reject) => {
    const isPiped = isHeld || onOutput !== undefined;
    const shown = isPiped ? ["inherit", "pipe", "pipe"] : "inherit";
    const child = spawn(command, args, {
      cwd,
      stdio: quiet ? "ignore" : shown,
      env: { ...process.env, ...env },
      shell: process.platform === "win32",
    });
    const held = [];
    for (const name of isPiped ? ["stdout", "stderr"] : []) {
      if (onOutput) child[name].on("data", onOutput);
      if (isHeld) child[name].on("data", (piece) => held.push(piece));
      else child[name].pipe(process[name], { end: false });
    }
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      const end = () => {
        process.stdout.write(Buffer.concat(held));
        held.length = 0;
        resolve(code ?? (signal ? 1 : 0));
      };
      child.on("close", end);
      // A child process may hold the output open.
      setTimeout(end, isPiped ? 5_000 : 0).unref();
    });
  });
}

/** Installs the packages of a directory, unless they match its lock file already. */
export async function ensureDependencies(directory = ".") {
  const cwd = join(root, directory);
  const installed = join(cwd, "node_modules/.package-lock.json");
  const lock = join(cwd, "package-lock.json");
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return;
  console.log(`Installing the packages of ${directory === "." ? "the repository" : directory} ...`);
  await run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd });
}

export function readJson(path) {
  return JSON.parse(readFileSync(join(root, path), "utf8"));
}
