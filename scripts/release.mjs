// Publishes a release: `npm run release`, once the addons of all targets are in npm/<target>/. With `-- --dry-run` it
// goes the same way to a registry on loopback, with this machine's addon alone, and tries what users would get.
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { packAll } from "./release/pack.mjs";
import { publish } from "./release/publish.mjs";
import { startRegistry } from "./release/registry.mjs";
import { tryPackages } from "./release/try.mjs";
import { NAME, hostTarget, packageName } from "./targets.mjs";
import { ensureDependencies, root, run } from "./tasks.mjs";

const TOOLS = "scripts/release/tools";
const tool = (path) => join(root, TOOLS, "node_modules", path);

await ensureDependencies();
await ensureDependencies(TOOLS);
const isDryRun = process.argv.includes("--dry-run");
await run(process.execPath, ["scripts/manifests.mjs", "--check"]);
const packages = packAll({ isDryRun });
const main = packages.find(({ name }) => name === NAME);
await lintPackages();
if (isDryRun) await rehearse();
else await publishForReal();

async function lintPackages() {
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

/** The registry breaks down in the middle; the next run publishes the rest, in order, and one more run nothing. */
async function rehearse() {
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
    await tryPackages({ registry, version: main.version });
  } finally {
    registry.close();
  }
}

async function publishForReal() {
  const registry = execFileSync("npm", ["config", "get", "registry"], { encoding: "utf8" }).trim();
  // A token is for the first release alone: later ones are trusted by the workflow that they come from.
  const { NPM_TOKEN: token, ACTIONS_ID_TOKEN_REQUEST_URL: identity } = process.env;
  const env = token ? { [`npm_config_${registry.replace(/^https?:/, "")}:_authToken`]: token } : {};
  const published = await publish(packages, { registry, withProvenance: identity !== undefined, env });
  console.log(
    published.length > 0 ? `Published ${published.join(", ")}.` : "All of it is published already.",
  );
}
