// Writes the package.json of each target's package from the table of targets and the main package, and gives Cargo.toml
// the version of package.json: `npm run manifests`. With --check it only reports differences.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { NAME, TARGETS, addonName, packageName } from "./targets.mjs";
import { exitCode, readJson, root } from "./tasks.mjs";

const main = readJson("package.json");

function manifest(target) {
  return {
    name: packageName(target),
    version: main.version,
    description: `The native part of ${NAME} for ${target.name}`,
    license: main.license,
    homepage: main.homepage,
    bugs: main.bugs,
    repository: { ...main.repository, directory: `npm/${target.name}` },
    main: addonName(target),
    files: [addonName(target), "THIRD-PARTY-LICENSES.txt", "sbom.cdx.json"],
    engines: main.engines,
    os: [target.os],
    cpu: [target.cpu],
    ...(target.libc && { libc: [target.libc] }),
  };
}

function readme(target) {
  return `# ${packageName(target)}

The native part of ${NAME} for ${target.name}. npm installs it with that package; there is nothing to use it for
alone.
`;
}

/** In Cargo.toml the version comes first; in a lock file it follows the name. */
const withVersion = (pattern) => (text) => text.replace(pattern, (_, before) => `${before}"${main.version}"`);

const files = [
  ...TARGETS.flatMap((target) => [
    [`npm/${target.name}/package.json`, () => `${JSON.stringify(manifest(target), null, 2)}\n`],
    [`npm/${target.name}/README.md`, () => readme(target)],
  ]),
  ["Cargo.toml", withVersion(/^(version = )"[^"]*"/m)],
  ...["Cargo.lock", "fuzz/Cargo.lock"].map((path) => [
    path,
    withVersion(new RegExp(`^(name = "(?:${NAME}|qwen-(?:base|accounts|client))"\nversion = )"[^"]*"`, "gm")),
  ]),
];

const isCheck = process.argv.includes("--check");
const different = [];
for (const [path, make] of files) {
  const full = join(root, path);
  const found = existsSync(full) ? readFileSync(full, "utf8") : "";
  const wanted = make(found);
  if (wanted === found) continue;
  different.push(path);
  if (isCheck) continue;
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, wanted);
}
if (!isCheck) await exitCode("npx", ["prettier", "--write", "--log-level", "warn", "npm"]);
if (different.length > 0 && isCheck) {
  console.error(
    `Not as package.json and scripts/targets.mjs have it: ${different.join(", ")}. Run \`npm run manifests\`.`,
  );
  process.exit(1);
}
