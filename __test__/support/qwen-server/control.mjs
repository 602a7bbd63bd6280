import { redact } from "./secrets.mjs";

/**
 * `GET /_control` reports, `POST /_control` takes `{ action, … }`, for other processes. What an
 * action takes beside its name is what the method of the same name takes.
 */
export async function control(core, req, res) {
  const reply = (status, value) =>
    res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
  if (req.method === "GET") return reply(200, report(core));
  // A web page can't send this type to another origin by itself.
  if (!/^application\/json\b/.test(req.headers["content-type"] ?? "")) {
    return reply(415, { error: "content-type must be application/json" });
  }
  try {
    const chunks = await req.toArray();
    const { action, ...given } = JSON.parse(Buffer.concat(chunks).toString("utf8"));
    if (!Object.hasOwn(actions, action)) {
      throw new TypeError(`unknown action "${action}", not one of ${Object.keys(actions).join(", ")}`);
    }
    reply(200, { ok: true, result: (await actions[action](core.server, given)) ?? null });
  } catch (error) {
    reply(400, { error: error.message });
  }
}

function report({ server }) {
  return {
    url: server.url,
    stats: server.stats,
    violations: redact(server.violations, server.issued),
    pending: server.pendingUserCodes,
    requests: server.redactedRequests(),
  };
}

const actions = {
  script: (server, { endpoint, steps }) => server.script(endpoint, steps),
  clearScripts: (server, { endpoint }) => server.clearScripts(endpoint),
  approve: (server, { userCode, account }) => server.approve(userCode, { account }),
  deny: (server, { userCode }) => server.deny(userCode),
  issueToken: (server, given) => server.issueToken(given),
  addKey: (server, given) => server.addKey(given),
  revokeAccess: (server, { token }) => server.revokeAccess(token),
  revokeAllAccess: (server, { account }) => server.revokeAllAccess(account),
  revokeRefresh: (server, { token }) => server.revokeRefresh(token),
  setQuota: (server, { account, left, ...refusal }) => server.setQuota(account, left, refusal),
  set: (server, { options }) => server.set(options),
  reset: (server) => server.reset(),
};
