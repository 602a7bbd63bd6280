// An HTTP proxy with CONNECT and absolute-form requests.

import http from "node:http";
import net from "node:net";

/** @param {object} t the test, which closes it at the end */
export async function startHttpProxy(t) {
  const seen = [];
  const server = http.createServer((req, res) => {
    seen.push({ method: req.method, target: req.url });
    const onward = http.request(req.url, { method: req.method, headers: req.headers }, (answer) => {
      res.writeHead(answer.statusCode, answer.headers);
      answer.pipe(res);
    });
    onward.on("error", () => res.writeHead(502).end());
    req.pipe(onward);
  });
  server.on("connect", (req, socket, head) => {
    seen.push({ method: "CONNECT", target: req.url });
    const [host, port] = split(req.url);
    join(socket, host, port, (onward) => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      onward.write(head);
    });
  });
  const port = await listen(t, server);
  return { url: `http://127.0.0.1:${port}`, seen };
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
