import { apiError, DONE, event, html, json, sse } from "./answer.mjs";
import { chunkOf } from "./completion.mjs";
import { invalidRefreshToken, oauthError } from "./oauth.mjs";

/** Steps that replace the endpoint's work with another answer. */
const instead = {
  answer: ({ status = 200, body = "" }) =>
    typeof body === "string" || Buffer.isBuffer(body)
      ? { status, headers: typeof body === "string" ? { "content-type": "text/plain" } : {}, body }
      : json(status, body),
  pending: () => oauthError(400, "authorization_pending", "The user has not approved the request yet"),
  denied: () => oauthError(400, "access_denied", "The user denied the request"),
  expired: () => oauthError(400, "expired_token", "The device code has expired"),
  invalid_request: () => invalidRefreshToken(),
  html: ({ status = 504 }) => html(status, htmlError(status)),
  server_error: ({ status = 503 }) =>
    apiError(status, "internal_error", "The service is overloaded", { type: "server_error" }),
  quota: (step) => refusedForQuota(step),
  rate_limit: ({ retryAfter, code = "Throttling.RateQuota", message }) =>
    apiError(429, code, message ?? "Requests rate limit exceeded, please try again later.", {
      type: "rate_limit_error",
      headers: retryAfterHeader(retryAfter),
    }),
  token_rejected: () => tokenRejected(),
  forbidden: () => apiError(403, "access_denied", "access denied"),
  reset: () => ({ head: false, end: "reset" }),
  hang: () => ({ head: false, end: "silence" }),
  empty_stream: () => sse([DONE]),
  binary: ({ bytes = 4096 }) => ({
    status: 200,
    headers: { "content-type": "application/octet-stream" },
    body: Buffer.from({ length: bytes }, (_, index) => (index * 151 + 128) % 256),
  }),
  flood: ({ bytes = 64_000_000, size = 1024 }) => sse(floodOfEvents(bytes, size)),
  events: ({ events }) => sse(events.map(bytesOf)),
};

/** Steps that do the endpoint's work, and spoil the answer. */
const spoil = {
  ok: (answer) => answer,
  delay: (answer) => answer,
  headers_then_stall: (answer) => ({ ...answer, ...declared(answer), parts: [], end: "silence" }),
  stall: (answer, { after }) => ({ ...answer, ...first(answer, after), end: "silence" }),
  cut: (answer, { after, reset }) => ({
    ...answer,
    ...first(answer, after),
    end: reset ? "reset" : "destroy",
  }),
  drip: (answer, { ms = 20, bytes = 1 }) => ({
    ...answer,
    ...declared(answer),
    parts: dripped(answer, ms, bytes),
  }),
  no_finish: (answer) => withoutFinish(answer),
};

export const stepNames = [...Object.keys(instead), ...Object.keys(spoil)];

/**
 * @param {object | undefined} step
 * @param {(() => import("./answer.mjs").Answer)} normal
 * @returns {import("./answer.mjs").Answer}
 */
export function applyStep(step, normal) {
  if (!step) return normal();
  const replaced = step.do in instead;
  let answer = replaced ? named(step) : spoil[step.do](normal(), step);
  if (step.end) answer = { ...answer, end: step.end };
  const headers = { ...answer.headers, ...lowerCased(step.headers) };
  if (step.contentType) headers["content-type"] = step.contentType;
  return { ...answer, status: step.status ?? answer.status, headers };
}

function named(step) {
  const answer = instead[step.do](step);
  if (step.body === undefined || answer.head === false || step.do === "answer") return answer;
  const { body } = instead.answer(step);
  return { ...answer, parts: undefined, body };
}

export function tokenRejected() {
  return apiError(401, "invalid_api_key", "invalid access token or token expired");
}

/** The answer to a key of another plan or region, or to a deleted one. */
export function keyRejected({ plan }) {
  return plan === "coding-plan"
    ? apiError(403, "InvalidApiKey", "invalid api-key")
    : apiError(401, "invalid_api_key", "Incorrect API key provided.");
}

export function refusedForQuota({ retryAfter, code = "insufficient_quota", window = "Free", message } = {}) {
  return apiError(429, code, message ?? `${window} allocated quota exceeded.`, {
    type: code,
    headers: retryAfterHeader(retryAfter),
  });
}

const retryAfterHeader = (value) => (value === undefined ? {} : { "retry-after": String(value) });

const lowerCased = (headers = {}) =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));

function htmlError(status) {
  const name = { 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Time-out" }[status] ?? "Error";
  return `<html>\n<head><title>${status} ${name}</title></head>\n<body><h1>${status} ${name}</h1></body>\n</html>\n`;
}

/** A body that is sent in pieces has the content-length of the whole. */
function declared({ body, headers }) {
  if (body === undefined) return {};
  return { headers: { ...headers, "content-length": String(Buffer.byteLength(body)) }, body: undefined };
}

/** The first `after` events of a stream (3), or bytes of a body (half of it). */
function first(answer, after) {
  if (answer.body !== undefined) {
    const whole = Buffer.from(answer.body);
    return { ...declared(answer), parts: [whole.subarray(0, after ?? Math.floor(whole.length / 2))] };
  }
  return { parts: take(answer.parts, after ?? 3) };
}

function* take(parts, count) {
  let taken = 0;
  if (count <= 0) return;
  for (const part of parts) {
    yield part;
    if (typeof part !== "number") taken += 1;
    if (taken >= count) return;
  }
}

function* dripped({ body, parts }, ms, size) {
  for (const part of parts ?? [body]) {
    if (typeof part === "number") continue;
    const bytes = Buffer.from(part);
    for (let at = 0; at < bytes.length; at += size) {
      yield bytes.subarray(at, at + size);
      yield ms;
    }
  }
}

function withoutFinish({ body, parts, ...rest }) {
  if (body !== undefined) {
    return { ...rest, body: String(body).replace(/"finish_reason":"\w+"/, '"finish_reason":null') };
  }
  return { ...rest, parts: unfinished(parts) };
}

function* unfinished(parts) {
  for (const part of parts) {
    if (typeof part !== "string" || !part.includes('"finish_reason":"')) yield part;
  }
}

function* floodOfEvents(bytes, size) {
  const chunk = chunkOf({ id: "chatcmpl-flood", created: 0, model: "coder-model" });
  const text = Buffer.from(event(chunk({ content: "x".repeat(size) })));
  for (let sent = 0; sent < bytes; sent += text.length) yield text;
  yield event(chunk({}, "stop"));
  yield DONE;
}

function bytesOf(item) {
  if (typeof item === "string" || typeof item === "number" || item instanceof Uint8Array) return item;
  if (typeof item.wait === "number") return item.wait;
  if (typeof item.base64 === "string") return Buffer.from(item.base64, "base64");
  return event(item.json ?? item);
}
