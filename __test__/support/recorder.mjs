/**
 * A plain server that keeps what it was sent, byte for byte, and answers as it is told.
 *
 * @module
 */

import http from "node:http";

/**
 * @param {object} t the test, at whose end it is closed
 * @param {(entry: object, res: import("node:http").ServerResponse) => void} [answer]
 */
export async function startRecorder(t, answer = (_, res) => res.end("{}")) {
  const requests = [];
  const server = http.createServer((req, res) => {
    const chunks = [];
    req.on("data", (chunk) => chunks.push(chunk));
    req.on("end", () => {
      const { method, url, headers } = req;
      const entry = { method, url, headers, body: Buffer.concat(chunks) };
      requests.push(entry);
      answer(entry, res);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, requests };
}
