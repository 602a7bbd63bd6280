// Qwen's own hosts, played by one server: a proxy sends every host name to it, and it has a certificate for each.

import http from "node:http";
import net from "node:net";
import { makeCertificates } from "./certificates.mjs";
import { startServer, temporaryHome } from "./harness.mjs";
import { PLACE_HOSTS } from "./qwen-server/places.mjs";

/**
 * @returns a server, an environment in which it stands for Qwen, and the hosts of all connections, in order
 */
export async function startPlaces(t) {
  const { caPath, tls } = makeCertificates(t, PLACE_HOSTS);
  const server = await startServer(t, { tls });
  const proxy = http.createServer((_, res) => res.writeHead(405).end());
  const sockets = new Set();
  const asked = [];
  proxy.on("connect", (req, socket, head) => {
    asked.push(req.url.split(":")[0]);
    const onward = net.connect(server.port, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      onward.write(head);
      socket.pipe(onward).pipe(socket);
    });
    for (const end of [socket, onward]) {
      sockets.add(end);
      end.on("error", () => {});
      end.on("close", () => (socket.destroy(), onward.destroy()));
    }
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => proxy.close(resolve));
  });
  const home = temporaryHome(t);
  const env = {
    ...home.env,
    HTTPS_PROXY: `http://127.0.0.1:${proxy.address().port}`,
    NODE_EXTRA_CA_CERTS: caPath,
    OPENCODE_QWEN_OAUTH_BASE_URL: server.url,
    NO_PROXY: "127.0.0.1",
  };
  return { server, home, env, asked };
}
