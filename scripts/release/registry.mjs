import { createHash } from "node:crypto";
import { createServer } from "node:http";

const LONG_AGO = "2020-01-01T00:00:00.000Z";

/**
 * Starts a package registry on loopback for installing and publishing. It only has what was published to it, so tests
 * get the same packages as users.
 *
 * @returns {Promise<{url: string, env: Record<string, string>, published: string[], close(): void, failNext(name: string): void}>}
 *   `env` is what package managers need to use it
 */
export async function startRegistry() {
  const packages = new Map();
  const published = [];
  const failing = new Set();

  const server = createServer(async (request, response) => {
    const send = (status, body) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(body));
    };
    const path = decodeURIComponent(new URL(request.url, url).pathname).slice(1);
    const [name, , file] = path.split("/");
    const found = packages.get(name);
    if (request.method === "PUT") {
      const body = JSON.parse(Buffer.concat(await request.toArray()).toString("utf8"));
      // npm does not retry this status.
      if (failing.delete(name)) return send(400, { error: "not now" });
      const [version] = Object.keys(body.versions);
      if (found?.versions[version]) return send(403, { error: "cannot publish over an existing version" });
      add(name, version, body);
      return send(201, { ok: true });
    }
    if (found === undefined || path.startsWith("-/")) return send(404, { error: "not found" });
    if (file === undefined) return send(200, found.packument);
    response.end(found.tarballs.get(file));
  });

  function add(name, version, { versions, _attachments: attachments }) {
    const [file] = Object.keys(attachments);
    const tarball = Buffer.from(attachments[file].data, "base64");
    const hash = (algorithm, encoding) => createHash(algorithm).update(tarball).digest(encoding);
    const dist = {
      tarball: `${url}/${name}/-/${file}`,
      shasum: hash("sha1", "hex"),
      integrity: `sha512-${hash("sha512", "base64")}`,
    };
    const found = packages.get(name) ?? { versions: {}, tarballs: new Map() };
    found.versions[version] = { ...versions[version], dist };
    found.tarballs.set(file, tarball);
    // Some package managers skip new versions.
    const time = Object.fromEntries(Object.keys(found.versions).map((one) => [one, LONG_AGO]));
    found.packument = { name, "dist-tags": { latest: version }, versions: found.versions, time };
    packages.set(name, found);
    published.push(`${name}@${version}`);
  }

  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  const url = `http://127.0.0.1:${port}`;
  return {
    url,
    env: {
      npm_config_registry: url,
      [`npm_config_//127.0.0.1:${port}/:_authToken`]: "loopback",
      YARN_REGISTRY: url,
      YARN_NPM_REGISTRY_SERVER: url,
      YARN_UNSAFE_HTTP_WHITELIST: "127.0.0.1",
      BUN_CONFIG_REGISTRY: url,
    },
    published,
    /** Makes the next attempt to publish this package fail. */
    failNext: (name) => failing.add(name),
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
