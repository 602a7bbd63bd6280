// An HTTP proxy with CONNECT and absolute-form requests.

import http from "node:http";
import net from "node:net";

/**
 * @param {object} t the test, which closes it at the end
 * @param {object} [options]
 * @param {string} [options.credentials] "user:password" that it requires
 * @param {number} [options.refusals] number of CONNECTs that it first answers with 502
 */
export async function startHttpProxy(t, { credentials, refusals = 0 } = {}) {
  const seen = [];
  const expected = credentials && `Basic ${Buffer.from(credentials).toString("base64")}`;
  const allowed = (req) => !expected || req.headers["proxy-authorization"] === expected;
  const server = http.createServer((req, res) => {
    seen.push({ method: req.method, target: req.url });
    if (!allowed(req)) return res.writeHead(407, { "proxy-authenticate": "Basic" }).end();
    const { "proxy-authorization": _, ...headers } = req.headers;
    const onward = http.request(req.url, { method: req.method, headers }, (answer) => {
      res.writeHead(answer.statusCode, answer.headers);
      answer.pipe(res);
    });
    onward.on("error", () => res.writeHead(502).end());
    req.pipe(onward);
  });
  server.on("connect", (req, socket, head) => {
    seen.push({ method: "CONNECT", target: req.url });
    if (!allowed(req)) return socket.end("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    if (seen.length <= refusals) return socket.end("HTTP/1.1 502 Bad Gateway\r\n\r\n");
    const [host, port] = split(req.url);
    join(socket, host, port, (onward) => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      onward.write(head);
    });
  });
  const port = await listen(t, server);
  return { url: `http://${credentials ? `${credentials}@` : ""}127.0.0.1:${port}`, seen };
}

function split(authority) {
  const at = authority.lastIndexOf(":");
  return [authority.slice(0, at), Number(authority.slice(at + 1))];
}

function join(socket, host, port, onReady) {
  const onward = net.connect(port, host, () => {
    onReady(onward);
    socket.pipe(onward).pipe(socket);
  });
  for (const end of [socket, onward]) {
    end.on("error", () => {});
    end.on("close", () => (end === socket ? onward : socket).destroy());
  }
}

async function listen(t, server) {
  const sockets = new Set();
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return server.address().port;
}
