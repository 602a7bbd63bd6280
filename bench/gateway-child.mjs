// A server in between, in a process of its own: `gateway` is this package's, `node` a plain proxy.
import { Agent, createServer, request } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [kind, origin] = process.argv.slice(2);

async function openGateway() {
  const client = require("../lib/api.js").createClient();
  const { url, key } = await client.serve();
  return { url, key };
}

async function openProxy() {
  const agent = new Agent({ keepAlive: true });
  const { hostname, port } = new URL(origin);
  const server = createServer((incoming, outgoing) => {
    const { method, headers, url: path } = incoming;
    const onward = request({ agent, hostname, port, method, headers, path }, (answer) => {
      outgoing.writeHead(answer.statusCode, answer.headers);
      answer.pipe(outgoing);
    });
    incoming.pipe(onward);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/v1`, key: "bench" };
}

console.log(JSON.stringify(await (kind === "gateway" ? openGateway() : openProxy())));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
