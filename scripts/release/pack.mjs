// Creates the tarballs for publishing: one for each target, and the main package, which depends on them.
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { targetDirectory } from "../cargo.mjs";
import { NAME, TARGETS, addonName, hostTarget, packageName } from "../targets.mjs";
import { readJson, root } from "../tasks.mjs";
import { cratesSbom, licences, linkedCrates, mainSbom } from "../third-party.mjs";

const SBOM = "sbom.cdx.json";
const LICENCES = "THIRD-PARTY-LICENSES.txt";
/** Lists the tarballs. */
const INDEX = "packages.json";
const MAX_MAIN_PACKED = 80_000;
/** The limit of the addon is 6 MB (check-addon.mjs), plus the licences of its libraries. */
const MAX_TARGET_UNPACKED = 6_200_000;

const folder = join(targetDirectory, "packages");

/** @typedef {{name: string, version: string, tarball: string, packed: number, unpacked: number}} Packed */

/**
 * Packs all packages, the main package last. Fails if a package is too large.
 *
 * @param {object} [options]
 * @param {boolean} [options.isDryRun] packs only this machine's addon, and an empty one for other targets
 * @returns {Packed[]}
 */
export function packAll({ isDryRun = false } = {}) {
  rmSync(folder, { recursive: true, force: true });
  const stages = [...TARGETS.map((target) => stageTarget(target, isDryRun)), stageMain()];
  const args = ["pack", "--json", "--ignore-scripts", "--pack-destination", folder, ...stages];
  const shell = process.platform === "win32";
  const packages = JSON.parse(execFileSync("npm", args, { cwd: root, maxBuffer: 2 ** 26, shell }));
  const packed = packages.map(({ name, version, filename, size, unpackedSize }) => {
    return { name, version, tarball: join(folder, filename), packed: size, unpacked: unpackedSize };
  });
  for (const one of packed) measure(one);
  writeFileSync(
    join(folder, INDEX),
    text(packages.map(({ name, version, filename }) => ({ name, version, filename }))),
  );
  return packed;
}

/**
 * Returns the packages in `target/packages`, in the order of publishing.
 *
 * @returns {Pick<Packed, "name" | "version" | "tarball">[]}
 */
export function readPacked() {
  const packages = JSON.parse(readFileSync(join(folder, INDEX), "utf8"));
  return packages.map(({ name, version, filename }) => ({ name, version, tarball: join(folder, filename) }));
}

function measure({ name, packed, unpacked }) {
  console.log(
    `${name}: ${(packed / 1000).toFixed(0)} kB packed, ${(unpacked / 1000).toFixed(0)} kB unpacked`,
  );
  const [found, limit] = name === NAME ? [packed, MAX_MAIN_PACKED] : [unpacked, MAX_TARGET_UNPACKED];
  if (found >= limit) throw new Error(`${name} has ${found} bytes; it has to be under ${limit}.`);
}

function stageTarget(target, isDryRun) {
  const stage = emptyStage(packageName(target));
  const source = join(root, "npm", target.name);
  for (const file of ["package.json", "README.md"]) cpSync(join(source, file), join(stage, file));
  cpSync(join(root, "LICENSE"), join(stage, "LICENSE"));
  const addon = addonOf(target, isDryRun);
  if (addon === undefined && !isDryRun) {
    throw new Error(
      `${join(source, addonName(target))} is missing: build it, or fetch it from the build that has it.`,
    );
  }
  if (addon === undefined) {
    writeFileSync(join(stage, addonName(target)), "");
  } else {
    cpSync(addon, join(stage, addonName(target)));
    const crates = linkedCrates(target);
    writeFileSync(join(stage, LICENCES), licences(crates));
    writeFileSync(join(stage, SBOM), JSON.stringify(cratesSbom(target, crates)));
  }
  return stage;
}

/** Returns the release build, or for a dry run the build of this checkout. */
function addonOf(target, isDryRun) {
  const places = [join(root, "npm", target.name, addonName(target))];
  if (isDryRun && target === hostTarget()) places.unshift(join(root, addonName(target)));
  return places.find((path) => existsSync(path));
}

function stageMain() {
  const stage = emptyStage(NAME);
  const { devDependencies: _development, scripts: _scripts, ...manifest } = readJson("package.json");
  for (const file of [...manifest.files, "README.md", "CHANGELOG.md", "LICENSE"]) {
    cpSync(join(root, file), join(stage, file), { recursive: true });
  }
  writeFileSync(join(stage, SBOM), text(mainSbom()));
  // Exact versions, because the JavaScript and the addon must match.
  const versions = TARGETS.map((target) => [packageName(target), manifest.version]);
  const published = { ...manifest, optionalDependencies: Object.fromEntries(versions) };
  published.files = [...manifest.files, SBOM, "CHANGELOG.md"];
  writeFileSync(join(stage, "package.json"), text(published));
  return stage;
}

function emptyStage(name) {
  const stage = join(folder, name);
  mkdirSync(stage, { recursive: true });
  return stage;
}

const text = (value) => `${JSON.stringify(value, null, 2)}\n`;
