// Tests the packages as users get them: every package manager installs them from a registry into empty folders.
import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Host } from "../../__test__/e2e/support/opencode.mjs";
import { bun, bunEnvironment } from "../../__test__/support/bun.mjs";
import { startQwenServer } from "../../__test__/support/qwen-server.mjs";
import { NAME, hostTarget, packageName } from "../targets.mjs";
import { root } from "../tasks.mjs";
import * as programs from "./programs.mjs";

const execute = promisify(execFile);
const tool = (path) => join(root, "scripts/release/tools/node_modules", path);
const script = (path, ...args) => [process.execPath, [path, ...args]];

/** The install command of each package manager, without scripts. */
const MANAGERS = {
  npm: ["npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund"]],
  pnpm: script(tool("pnpm/bin/pnpm.cjs"), "install", "--ignore-scripts"),
  "yarn 1": script(tool("yarn/bin/yarn.js"), "install", "--ignore-scripts", "--no-progress"),
  yarn: script(tool("@yarnpkg/cli-dist/bin/yarn.js"), "install", "--no-immutable"),
  bun: [bun, ["install", "--ignore-scripts"]],
};
/** Tests an installation without the package for this platform. */
const WITHOUT_ADDON = ["npm", ["install", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"]];

/**
 * @param {object} options
 * @param {import("./registry.mjs")} options.registry contains the packages
 * @param {string} options.version
 */
export async function tryPackages({ registry, version }) {
  const base = mkdtempSync(join(tmpdir(), "qwen-install-"));
  const scene = { base, registry, version };
  try {
    await installEverywhere(scene);
    await useInstalled(scene);
    await compile(scene);
    await runWithoutAddon(scene);
    await runInOpenCode(scene);
  } finally {
    rmSync(base, { recursive: true, force: true });
  }
}

async function installEverywhere(scene) {
  for (const [manager, [command, args]] of Object.entries(MANAGERS)) {
    const folder = newFolder(scene, manager);
    await run(scene, folder, command, args, manager === "bun" ? bunEnvironment : {});
    const isPlugAndPlay = existsSync(join(folder, ".pnp.cjs"));
    await program(scene, folder, "use.cjs", programs.require, isPlugAndPlay ? ["-r", "./.pnp.cjs"] : []);
    console.log(`ok  installed by ${manager}${isPlugAndPlay ? " (Plug'n'Play)" : ""}`);
  }
}

async function useInstalled(scene) {
  const folder = join(scene.base, "npm");
  const others = hostTarget().name;
  if (!existsSync(join(folder, "node_modules", packageName(hostTarget()))))
    throw new Error(`no addon for ${others}`);
  await program(scene, folder, "use.mjs", programs.esModule);
  await program(scene, folder, "api.cjs", programs.api);
  await program(scene, folder, "worker.cjs", programs.worker);
  for (const [name, source] of [
    ["use.cjs", programs.require],
    ["api.cjs", programs.api],
    ["worker.cjs", programs.worker],
  ]) {
    writeFileSync(join(folder, name), source);
    await run(scene, folder, bun, [name], bunEnvironment);
  }
  const { stdout } = await run(scene, folder, process.execPath, [
    `node_modules/${NAME}/bin/${NAME}.js`,
    "--version",
  ]);
  if (stdout.trim() !== scene.version) throw new Error(`the command line says ${stdout}`);
  console.log("ok  used by require, import, a worker, the command line; in Node and in Bun");
}

async function compile(scene) {
  const folder = join(scene.base, "npm");
  for (const [name, options] of Object.entries(programs.typescript)) {
    const files = ["import.mts", ...(name === "bundler" ? [] : ["require.cts"])];
    for (const file of files) cpSync(join(root, "__test__/types", file), join(folder, file));
    const compilerOptions = {
      ...options,
      target: "es2022",
      lib: ["es2022", "dom", "dom.iterable"],
      types: ["node"],
      typeRoots: [join(root, "node_modules/@types")],
      strict: true,
      noEmit: true,
      skipLibCheck: false,
    };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
    await run(scene, folder, process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", "."]);
    console.log(`ok  compiled by TypeScript with moduleResolution ${name}`);
  }
}

async function runWithoutAddon(scene) {
  const folder = newFolder(scene, "without");
  await run(scene, folder, ...WITHOUT_ADDON);
  const { stdout } = await program(scene, folder, "use.cjs", programs.withoutAddon, [], [hostTarget().name]);
  console.log(`ok  without optional dependencies it says:\n    ${stdout.trim().replaceAll("\n", "\n    ")}`);
}

/** Lists the package in the plugin array, so that OpenCode installs it. */
async function runInOpenCode(scene) {
  const server = await startQwenServer();
  const host = new Host({ server, plugin: `${NAME}@${scene.version}`, env: scene.registry.env });
  try {
    const { code, stdout, error, stderr } = await host.chat("Say hello");
    if (code !== 0 || server.seen("chat").length !== 1) throw new Error(`OpenCode: ${error ?? stderr}`);
    console.log(`ok  installed and used by OpenCode ${host.version}, which says: ${stdout.trim()}`);
  } finally {
    await Promise.all([host.close(), server.close()]);
  }
}

function newFolder({ base, version }, name) {
  const folder = join(base, name.replaceAll(" ", "-"));
  mkdirSync(join(folder, "home"), { recursive: true });
  const manifest = { name: "user", version: "1.0.0", private: true, dependencies: { [NAME]: version } };
  writeFileSync(join(folder, "package.json"), JSON.stringify(manifest));
  return folder;
}

async function program(scene, folder, file, source, nodeArgs = [], args = []) {
  writeFileSync(join(folder, file), source);
  return run(scene, folder, process.execPath, [...nodeArgs, file, ...args]);
}

async function run({ base, registry }, cwd, command, args, more = {}) {
  const env = {
    PATH: process.env.PATH,
    // Settings and caches of this machine must not matter.
    HOME: base,
    USERPROFILE: base,
    CI: "1",
    npm_config_cache: join(base, "npm-cache"),
    YARN_ENABLE_TELEMETRY: "0",
    YARN_ENABLE_SCRIPTS: "0",
    ...registry.env,
    ...more,
  };
  try {
    return await execute(command, args, {
      cwd,
      env,
      shell: process.platform === "win32" && command === "npm",
    });
  } catch (error) {
    throw new Error(`${command} ${args.join(" ")} failed in ${cwd}:\n${error.stdout}\n${error.stderr}`, {
      cause: error,
    });
  }
}
