import { once } from "node:events";
import { apiError } from "./answer.mjs";
import * as api from "./api.mjs";
import { authorizePage } from "./authorize-page.mjs";
import { control } from "./control.mjs";
import { deliver, pause } from "./deliver.mjs";
import * as oauth from "./oauth.mjs";
import { placeOf } from "./places.mjs";
import { applyStep } from "./steps.mjs";

const ROUTES = [
  [/^\/api\/v1\/oauth2\/device\/code$/, "device", { POST: oauth.device }],
  [/^\/api\/v1\/oauth2\/token$/, "token", { POST: oauth.token }],
  [/^(?:\/compatible-mode)?\/v1\/models$/, "models", { GET: api.models }],
  [/^(?:\/compatible-mode)?\/v1\/chat\/completions$/, "chat", { POST: api.chat }],
  [/^(?:\/compatible-mode)?\/v1\/embeddings$/, "embeddings", { POST: api.embeddings }],
  [/^\/authorize$/, "authorize", { GET: { answer: authorizePage }, POST: { answer: authorizePage } }],
];

const COUNTERS = { device: "deviceRequests", token: "tokenRequests", chat: "chats" };

/** @returns the listener for all requests of the server with this core */
export function requestListener(core) {
  return (req, res) => {
    const { place, path } = placeOf(req.url, req.headers.host);
    const [, endpoint, handlers] = ROUTES.find(([pattern]) => pattern.test(path)) ?? [];
    // Control requests are neither logged nor counted.
    const work =
      path === "/_control" ? control(core, req, res) : handle(core, req, res, { endpoint, handlers, place });
    work.catch((error) => {
      if (!res.destroyed) core.failures.push(error);
      if (res.headersSent) res.destroy();
      else
        res
          .writeHead(500, { "content-type": "application/json" })
          .end(JSON.stringify({ error: error.stack }));
    });
  };
}

async function handle(core, req, res, { endpoint, handlers, place }) {
  const entry = core.log.open(req, endpoint);
  entry.place = place;
  const ctx = contextOf(core, req, res, entry);
  core.stats.requests += 1;
  const counter = COUNTERS[endpoint] ?? endpoint;
  if (counter in core.stats) core.stats[counter] += 1;
  if (!(await readInto(entry, req, ctx.signal))) return;
  const handler = handlers?.[req.method];
  if (!handler) {
    const answer = handlers
      ? apiError(405, "method_not_allowed", `${req.method} is not allowed`)
      : apiError(404, "not_found", `${entry.path} is not known here`);
    return deliver(ctx, answer);
  }
  entry.account = handler.identify?.(ctx);
  core.log.changed();
  await respond(ctx, endpoint, handler);
}

async function respond(ctx, endpoint, handler) {
  const { core, entry } = ctx;
  const refusal = handler.check?.(ctx);
  const step = core.scripts.take(endpoint, entry, !refusal);
  entry.step = step?.do;
  ctx.strict = step?.strict ?? core.options.strict;
  ctx.pace = step?.pace ?? core.options.pace;
  ctx.faults = (ctx.strict && !refusal && handler.inspect?.(ctx)) || [];
  ctx.record(ctx.faults);
  const answer = applyStep(step, refusal ?? (() => handler.answer(ctx)));
  await paused(ctx, step?.do === "delay" ? step.ms : step?.delay);
  if (!ctx.signal.aborted) await deliver(ctx, answer);
}

async function paused(ctx, delay) {
  try {
    await pause(ctx, delay);
  } catch (error) {
    if (!ctx.signal.aborted) throw error;
  }
}

function contextOf(core, req, res, entry) {
  const gone = new AbortController();
  const ctx = { core, req, res, entry, signal: gone.signal, own: false };
  ctx.record = (faults) => {
    entry.violations.push(...faults);
    core.violations.push(...faults.map((fault) => `${entry.method} ${entry.path}: ${fault}`));
  };
  ctx.refusal = (faults, answer) => {
    if (faults.length === 0) return undefined;
    return () => {
      ctx.record(faults);
      return answer();
    };
  };
  let sent = false;
  const settle = () => {
    if (ctx.redemption) ctx.redemption.answer = sent ? "delivered" : "lost";
  };
  ctx.rawSocket = () => core.rawSocketOf(req.socket);
  ctx.hangUp = (how) => {
    ctx.own = true;
    settle();
    if (how === "reset") ctx.rawSocket().resetAndDestroy();
    else ctx.rawSocket().destroy();
  };
  res.on("finish", () => {
    sent = true;
    settle();
  });
  res.on("close", () => {
    settle();
    gone.abort();
    const closedByClient = !sent && !ctx.own && !core.closing;
    if (closedByClient) core.stats.closedByClient += 1;
    core.log.finish(entry, closedByClient);
  });
  res.on("error", () => {});
  return ctx;
}

/** @returns {Promise<boolean>} false: the client left before the end of its request */
async function readInto(entry, req, signal) {
  const chunks = [];
  req.on("data", (chunk) => chunks.push(chunk));
  req.on("error", () => {});
  try {
    await once(req, "end", { signal });
  } catch {
    return false;
  }
  entry.rawBody = Buffer.concat(chunks).toString("utf8");
  entry.body = parsed(entry.rawBody, entry.headers["content-type"] ?? "");
  entry.readAt = Date.now();
  return true;
}

function parsed(text, type) {
  if (/^application\/x-www-form-urlencoded\b/i.test(type))
    return Object.fromEntries(new URLSearchParams(text));
  if (!text) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
