// Creates and publishes a release. `npm run release -- --pack` packs and checks all packages after the addons of all
// targets are in npm/<target>/. `npm run release -- --publish` publishes the packages. `npm run release -- --dry-run`
// builds this machine's addon, does both with a registry on loopback and only this addon, and tests the result.
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { packAll, readPacked } from "./release/pack.mjs";
import { publish } from "./release/publish.mjs";
import { startRegistry } from "./release/registry.mjs";
import { NAME, hostTarget, packageName } from "./targets.mjs";
import { ensureDependencies, root, run } from "./tasks.mjs";

const TOOLS = "scripts/release/tools";
const tool = (path) => join(root, TOOLS, "node_modules", path);

const [command] = process.argv.slice(2);
if (command === "--pack") await pack();
else if (command === "--publish") await publishForReal();
else if (command === "--dry-run") await rehearse(await pack({ isDryRun: true }));
else {
  console.error("usage: npm run release -- --pack | --publish | --dry-run");
  process.exit(2);
}

async function pack({ isDryRun = false } = {}) {
  await ensureDependencies();
  await ensureDependencies(TOOLS);
  await run(process.execPath, ["scripts/manifests.mjs", "--check"]);
  if (isDryRun) await run(process.execPath, ["scripts/build.mjs"]);
  const packages = packAll({ isDryRun });
  await lintPackages(packages);
  return packages;
}

function mainOf(packages) {
  return packages.find(({ name }) => name === NAME);
}

async function lintPackages(packages) {
  const main = mainOf(packages);
  const native = packages.find(({ name }) => name === packageName(hostTarget()));
  for (const { tarball } of [main, native]) {
    await run(process.execPath, [tool("publint/src/cli.js"), "run", "--strict", tarball]);
  }
  await run(process.execPath, [
    tool("@arethetypeswrong/cli/dist/index.js"),
    main.tarball,
    "--profile",
    "node16",
    "--no-emoji",
  ]);
}

/** The registry fails halfway. The next run publishes the rest in order, and another run publishes nothing. */
async function rehearse(packages) {
  const { tryPackages } = await import("./release/try.mjs");
  const registry = await startRegistry();
  try {
    const names = packages.map(({ name }) => name);
    const options = { registry: registry.url, env: registry.env };
    registry.failNext(names[2]);
    const broken = await publish(packages, options).catch((error) => error);
    const left = await publish(packages, options);
    const none = await publish(packages, options);
    const isRight =
      broken instanceof Error &&
      left.join() === names.slice(2).join() &&
      none.length === 0 &&
      names.at(-1) === NAME;
    if (!isRight) throw new Error(`A release that broke off went on with: ${left.join(", ")}`);
    console.log("ok  a release that broke off goes on where it was");
    await tryPackages({ registry, version: mainOf(packages).version });
  } finally {
    registry.close();
  }
}

/** Only `npm publish` gets the token. The first release needs it; npm trusts the workflow for later ones. */
async function publishForReal() {
  const { NPM_TOKEN: token, ACTIONS_ID_TOKEN_REQUEST_URL: identity } = process.env;
  delete process.env.NPM_TOKEN;
  const registry = execFileSync("npm", ["config", "get", "registry"], { encoding: "utf8" }).trim();
  const env = token ? { [`npm_config_${registry.replace(/^https?:/, "")}:_authToken`]: token } : {};
  const published = await publish(readPacked(), { registry, withProvenance: identity !== undefined, env });
  console.log(
    published.length > 0 ? `Published ${published.join(", ")}.` : "Everything is published already.",
  );
}
