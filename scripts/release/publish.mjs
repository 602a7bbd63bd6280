import { exitCode } from "../tasks.mjs";

/**
 * Publishes packages in order. Skips packages that the registry has, so an interrupted release can continue. The main
 * package is last, so that its dependencies exist before anybody can install it.
 *
 * @param {Pick<import("./pack.mjs").Packed, "name" | "version" | "tarball">[]} packages
 * @param {object} options
 * @param {string} options.registry its URL
 * @param {boolean} [options.withProvenance] true in a workflow that can prove the origin of the packages
 * @param {Record<string, string>} [options.env] for npm
 * @returns {Promise<string[]>} the names of those that were published now
 */
export async function publish(packages, { registry, withProvenance = false, env = {} }) {
  const published = [];
  for (const { name, version, tarball } of packages) {
    if (await isPublished(registry, name, version)) {
      console.log(`${name}@${version} is published already`);
      continue;
    }
    const tag = version.includes("-") ? "next" : "latest";
    const options = [
      "--access",
      "public",
      "--tag",
      tag,
      "--ignore-scripts",
      ...(withProvenance ? ["--provenance"] : []),
    ];
    const code = await exitCode("npm", ["publish", tarball, "--loglevel", "error", ...options], { env });
    if (code !== 0) {
      throw new Error(
        `${name}@${version} could not be published. Run the release again: it skips what is there.`,
      );
    }
    published.push(name);
  }
  return published;
}

async function isPublished(registry, name, version) {
  const response = await fetch(`${registry.replace(/\/$/, "")}/${name}`, {
    headers: { accept: "application/vnd.npm.install-v1+json", "cache-control": "no-cache" },
  });
  if (response.status === 404) return false;
  if (!response.ok) throw new Error(`${registry} answered ${response.status} when asked for ${name}.`);
  return (await response.json()).versions[version] !== undefined;
}
