import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { exitCode, run } from "../tasks.mjs";
import { crossDirectory } from "./tools.mjs";

/** The musl of this release can start Node; that of the previous release can't. */
const RELEASE = "trixie";
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";
const base = join(crossDirectory, "debian");

/**
 * Unpacks Debian packages into a folder. Installs nothing and needs no root.
 *
 * @param {string} name of the folder
 * @param {string[]} packages each with its architecture, as in "musl:arm64"
 * @returns {Promise<string>} the folder, used as /
 */
export async function debianFiles(name, packages) {
  const folder = join(base, name);
  if (existsSync(folder)) return folder;
  console.log(`Fetching ${packages.join(", ")} ...`);
  const options = await packageLists();
  const archives = join(base, `${name}.archives`);
  const unpacked = join(base, `${name}.unpacked`);
  for (const each of [archives, unpacked]) {
    rmSync(each, { recursive: true, force: true });
    mkdirSync(each, { recursive: true });
  }
  await run("apt-get", [...options, "download", ...packages], { cwd: archives });
  for (const file of readdirSync(archives)) await run("dpkg-deb", ["-x", join(archives, file), unpacked]);
  await run("mv", [unpacked, folder]);
  return folder;
}

/** Fetches package lists from the system's mirror into a separate folder. Returns the options for apt-get. */
async function packageLists() {
  const [sources, lists, cache] = ["sources.list", "lists", "cache"].map((name) => join(base, name));
  const options = [
    `Dir::Etc::sourcelist=${sources}`,
    "Dir::Etc::sourceparts=-",
    `Dir::State::Lists=${lists}`,
    `Dir::Cache=${cache}`,
    "APT::Architectures::=amd64",
    "APT::Architectures::=arm64",
    "APT::Sandbox::User=root",
    "Acquire::Languages=none",
    // Only for fetching the lists, without output.
    "quiet=2",
  ].flatMap((option) => ["-o", option]);
  if (existsSync(sources)) return options;
  const sites = execFileSync("apt-get", ["indextargets", "--format", "$(SITE)"], { encoding: "utf8" });
  const mirror = sites.split("\n").find((site) => /\/debian\/?$/.test(site));
  if (!mirror) throw new Error("apt-get knows no Debian mirror: the tests of foreign targets run on Debian.");
  for (const folder of [join(lists, "partial"), join(cache, "archives/partial")]) {
    mkdirSync(folder, { recursive: true });
  }
  writeFileSync(sources, `deb [signed-by=${KEYRING}] ${mirror} ${RELEASE} main\n`);
  if ((await exitCode("apt-get", [...options, "update"])) !== 0) {
    rmSync(sources);
    throw new Error("The lists of Debian's packages could not be fetched.");
  }
  return options;
}
