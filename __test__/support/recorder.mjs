// A plain server that records each request byte for byte, and answers with a function.

import http from "node:http";

/**
 * @param {object} t the test, which closes it at the end
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
