/** The plugin as npm installs it: the output of `npm pack`, and the package of this platform. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "./opencode.mjs";

export const { name: NAME, version: VERSION } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** A `node_modules` folder with the plugin. Call `remove()` at the end. */
export class Package {
  #folder = mkdtempSync(join(tmpdir(), "qwen-package-"));
  #packed = join(this.#folder, "package");

  constructor() {
    const options = { cwd: root, stdio: ["ignore", "pipe", "ignore"], shell: process.platform === "win32" };
    execFileSync("npm", ["pack", "--ignore-scripts", "--pack-destination", this.#folder], options);
    const tarball = readdirSync(this.#folder).find((file) => file.endsWith(".tgz"));
    execFileSync("tar", ["-xzf", tarball], { cwd: this.#folder });
  }

  /**
   * Installs the plugin into a `node_modules` folder.
   *
   * @param {boolean} withAddon false: without the package of this platform
   * @returns {string} its own folder
   */
  install(nodeModules, withAddon = true) {
    const folder = join(nodeModules, NAME);
    cpSync(this.#packed, folder, { recursive: true });
    if (withAddon) installAddon(nodeModules);
    return folder;
  }

  remove() {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function installAddon(nodeModules) {
  const addon = readdirSync(root).find((file) => file.startsWith(`${NAME}.`) && file.endsWith(".node"));
  assert.ok(addon, "the native addon is missing: run `npm run build`");
  const target = addon.slice(NAME.length + 1, -".node".length);
  const folder = join(nodeModules, `${NAME}-${target}`);
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(root, addon), join(folder, addon));
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name: `${NAME}-${target}`, version: VERSION, main: addon }),
  );
}
