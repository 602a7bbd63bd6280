// A plain server that records each request byte for byte, and answers with a function.

import http from "node:http";
import { startClient, temporaryHome } from "./harness.mjs";

/**
 * @param {object} t the test, which closes it at the end
 * @param {(entry: object, res: import("node:http").ServerResponse) => void} [answer]
 */
async function startRecorder(t, answer = (_, res) => res.end("{}")) {
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

/** A client whose account lives on such a server. */
export async function recordedClient(t, answer) {
  const recorder = await startRecorder(t, answer);
  const home = temporaryHome(t);
  home.write({ access_token: "a-token", refresh_token: "r", expiry_date: Date.now() + 3_600_000 });
  const { client } = startClient(t, { env: home.env, baseUrl: recorder.url });
  return { recorder, client };
}
