import { exitCode } from "../tasks.mjs";

/**
 * Publishes packages in their order, each unless the registry has it already: a release that broke off goes on where it
 * was. The main package comes last, so nobody can install it before all that it names is there.
 *
 * @param {Pick<import("./pack.mjs").Packed, "name" | "version" | "tarball">[]} packages
 * @param {object} options
 * @param {string} options.registry its URL
 * @param {boolean} [options.withProvenance] in a workflow that may prove where the packages come from
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
