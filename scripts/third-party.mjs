// Lists the crates in an addon for machines (CycloneDX), and collects the licences that must be shipped with it.
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { NAME, TARGETS, packageName } from "./targets.mjs";
import { readJson, root } from "./tasks.mjs";

const main = readJson("package.json");
const LICENCE_FILE = /^(?:licen[cs]e|copying|copyright|notice|unlicense)/i;

/** The first words after the notices in the MIT and BSD licences. */
const TERMS = /^(?:Permission is hereby granted|Redistribution and use in source)/m;

/** Part of every addon, but not in any list of crates. */
const STANDARD_LIBRARY = {
  name: "the Rust standard library",
  license: "MIT OR Apache-2.0",
  authors: ["The Rust Project Contributors"],
};

/**
 * Returns the crates that are linked into the addon of a target, without build tools and macros.
 *
 * @returns {{name: string, version: string, license: string, folder: string, authors: string[], repository?: string}[]}
 */
export function linkedCrates(target) {
  const args = ["metadata", "--format-version", "1", "--locked", "--filter-platform", target.triple];
  const { packages, resolve } = JSON.parse(
    execFileSync("cargo", args, { cwd: root, maxBuffer: 2 ** 28, stdio: ["ignore", "pipe", "inherit"] }),
  );
  const byId = new Map(packages.map((one) => [one.id, one]));
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]));
  const isMacro = (id) => byId.get(id).targets.some(({ kind }) => kind.includes("proc-macro"));
  const linked = new Set();
  const visit = (id) => {
    for (const { pkg, dep_kinds: kinds } of nodes.get(id).deps) {
      if (linked.has(pkg) || isMacro(pkg) || kinds.every(({ kind }) => kind !== null)) continue;
      linked.add(pkg);
      visit(pkg);
    }
  };
  visit(resolve.root);
  return (
    [...linked]
      .map((id) => byId.get(id))
      // Crates of this workspace have no source.
      .filter(({ source }) => source !== null)
      .map(({ name, version, license, authors, repository, manifest_path: manifest }) => {
        return { name, version, license, authors, repository, folder: dirname(manifest) };
      })
      .sort((one, other) => (`${one.name} ${one.version}` < `${other.name} ${other.version}` ? -1 : 1))
  );
}

/** Returns a text with the licence of each crate. Crates with the same licence share one. */
export function licences(crates) {
  const users = new Map();
  const textsOf = ({ folder, license }) => {
    const files = readdirSync(folder).filter((file) => LICENCE_FILE.test(file));
    return chosen(files, license).map((file) => readText(join(folder, file)));
  };
  for (const crate of crates) {
    const { name, version, license, repository, authors } = crate;
    // Some crates keep the text in another crate of their workspace.
    const isKin = (other) => repository && other.repository === repository && other.license === license;
    const texts = [crate, ...crates.filter(isKin)].map(textsOf).find((found) => found.length > 0) ?? [];
    for (const text of texts.length > 0 ? texts : [withoutFile({ name, license, authors })]) {
      if (!users.has(text)) users.set(text, []);
      users.get(text).push(`${name} ${version} (${license})`);
    }
  }
  users.set(withoutFile(STANDARD_LIBRARY), [`${STANDARD_LIBRARY.name} (${STANDARD_LIBRARY.license})`]);
  const sections = withTermsOnce(users).map(([names, text]) => `${names.join("\n")}\n\n${text}\n`);
  const rule = `\n${"-".repeat(80)}\n\n`;
  return `The native part of ${NAME} contains these libraries.\n${rule}${sections.join(rule)}`;
}

/**
 * Many texts have the same terms with different notices and line breaks. Keeps all notices, and the terms once.
 */
function withTermsOnce(users) {
  const groups = new Map();
  for (const [text, names] of users) {
    const start = text.search(TERMS);
    const terms = start < 0 ? text : text.slice(start);
    const key = terms.replaceAll(/\s+/g, " ");
    if (!groups.has(key)) groups.set(key, { terms, holders: [] });
    const notices = start < 0 ? "" : text.slice(0, start).trim();
    groups.get(key).holders.push([...names, ...(notices && [notices.replaceAll(/^/gm, "  ")])].join("\n"));
  }
  return [...groups.values()].map(({ terms, holders }) => [holders, terms]);
}

function withoutFile({ name, license, authors }) {
  if (!/\bMIT\b/.test(license))
    throw new Error(`${name} has no licence file, and is not under the MIT licence.`);
  const [title, , ...terms] = readText(join(root, "LICENSE")).split("\n");
  return [title, "", `Copyright (c) ${authors.join(", ") || `the authors of ${name}`}`, ...terms].join("\n");
}

/** Chooses the shorter licence if there is a choice and the file says which licence it is. */
function chosen(files, license) {
  const readable = files.filter((file) => !/copyright/i.test(file) || files.length === 1);
  if (!/\bOR\b|\//.test(license ?? "")) return readable;
  const mit = readable.filter((file) => /mit/i.test(file));
  if (mit.length === 0) return readable;
  return /\bAND\b/.test(license) ? readable.filter((file) => !/apache/i.test(file)) : mit;
}

function readText(path) {
  return readFileSync(path, "utf8")
    .replaceAll("\r\n", "\n")
    .replaceAll(/[ \t]+$/gm, "")
    .trim();
}

/** Writes CycloneDX 1.5 without a time or a random number, so that the same input gives the same file. */
export function cratesSbom(target, crates) {
  const checksums = lockedChecksums();
  return sbom(
    { name: packageName(target), license: main.license },
    crates.map(({ name, version, license, repository }) => {
      const hash = checksums.get(`${name} ${version}`);
      const purl = `pkg:cargo/${name}@${version}`;
      return {
        type: "library",
        "bom-ref": purl,
        name,
        version,
        ...(license && { licenses: [{ expression: license.replaceAll("/", " OR ") }] }),
        ...(hash && { hashes: [{ alg: "SHA-256", content: hash }] }),
        purl,
        ...(repository && { externalReferences: [{ type: "vcs", url: repository }] }),
      };
    }),
  );
}

/** The main package depends only on one of the target packages. */
export function mainSbom() {
  return sbom(
    { name: NAME, license: main.license },
    TARGETS.map((target) => {
      const purl = `pkg:npm/${packageName(target)}@${main.version}`;
      const licenses = [{ license: { id: main.license } }];
      return {
        type: "library",
        "bom-ref": purl,
        name: packageName(target),
        version: main.version,
        scope: "optional",
        licenses,
        purl,
      };
    }),
  );
}

function sbom({ name, license }, components) {
  const purl = `pkg:npm/${name}@${main.version}`;
  const licenses = [{ license: { id: license } }];
  return {
    $schema: "http://cyclonedx.org/schema/bom-1.5.schema.json",
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {
      component: { type: "library", "bom-ref": purl, name, version: main.version, licenses, purl },
    },
    components,
    dependencies: [{ ref: purl, dependsOn: components.map((one) => one["bom-ref"]) }],
  };
}

function lockedChecksums() {
  const lock = readFileSync(join(root, "Cargo.lock"), "utf8");
  const entry = /name = "([^"]+)"\nversion = "([^"]+)"\nsource = [^\n]*\nchecksum = "([0-9a-f]+)"/g;
  return new Map([...lock.matchAll(entry)].map(([, name, version, hash]) => [`${name} ${version}`, hash]));
}
