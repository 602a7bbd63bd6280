/**
 * A local server that plays `chat.qwen.ai` (OAuth) and `portal.qwen.ai` (API) on one port.
 * As a program: `node qwen-server.mjs --help`. As a library:
 *
 *     const server = await startQwenServer({ expiresIn: 2 });
 *     server.script("chat", ["quota", { do: "cut", after: 5 }]);
 *     …
 *     await server.close();
 *
 * ## Plans
 *
 * A key belongs to a plan, and to one of its regions if it is added with one. The path of a request can name the
 * plan and region (`/plans/<plan>/<region>`, `server.placeUrl(plan, region)`), or its host name does, behind a proxy
 * that sends all hosts here. A request that names neither may use any plan's key.
 *
 * Each plan and region has the models of `catalog/catalog.json`. `GET /models` lists them (DashScope's list also has
 * models of other kinds), and others get 404 `model_not_found`. A key of another plan or region gets 401
 * `invalid_api_key`, at Coding Plan 403 "invalid api-key". With `strict`, Coding Plan answers 405 to programs whose
 * `User-Agent` is not a coding agent's; refused are `metadata` for other makers' models, an array as glm's system
 * message, a fifth cache marker, and an empty `content: []`.
 *
 * ## Endpoints
 *
 * `device` POST /api/v1/oauth2/device/code, `token` POST /api/v1/oauth2/token, `models` GET /v1/models,
 * `chat` POST /v1/chat/completions, `embeddings` POST /v1/embeddings (the three also under
 * /compatible-mode/v1), and outside of scripts `authorize` GET and POST /authorize, and /_control.
 *
 * A request is checked in this order: form and client id, or the bearer token; then a scripted step
 * is taken; then, with `strict`, the portal's rules (400; noted in `violations` even if
 * the step answers something else); then the quota (chat and embeddings take one each).
 *
 * ## Answers of the model
 *
 * `You said: <last user text>`, with a line `Image: image/png, 68 bytes` for each image. Directives
 * anywhere in the last user text: `CALL <tool> {json}` (any number of them) calls tools that are
 * offered, `SAY <n>` gives n words, `word1 word2 …`. A file name in the text calls an offered tool
 * `read` with `{"filePath": name}`. After tool results: `The tool answered: <first 200 characters>`.
 * A system prompt with the word "title" and no tools: the first five words. `max_tokens` cuts an
 * answer after so many words, with `finish_reason: "length"`.
 *
 * ## Steps
 *
 * `script(endpoint, steps)` queues steps; each request takes the first that fits it. A step is a name
 * or `{ do: name, … }`. Without `do` it is `events` if it has those, `answer` if it has a status
 * or a body, else `ok`.
 *
 * Instead of the endpoint's work (nothing is spent, redeemed or approved):
 *
 * - `answer` { status = 200, body: string, Buffer or a JSON value }
 * - `pending` 400, `denied` 400, `expired` 400, `invalid_request` 400 (refused refresh token)
 * - `quota` { retryAfter, code = "insufficient_quota", window = "Free", message } 429: `window` may be "hour",
 *   "week" or "month"
 * - `rate_limit` { retryAfter, code = "Throttling.RateQuota", message } 429
 * - `token_rejected` 401, `forbidden` 403, `server_error` { status = 503 } JSON, `html` { status = 504 }
 * - `reset` RST before any answer; `hang` never answers
 * - `empty_stream` only [DONE]; `binary` { bytes = 4096 }
 * - `flood` { bytes = 64e6, size = 1024 } events of that size, as fast as the client reads
 * - `events` { events: [string or bytes, sent as they are; number or { wait }: ms to wait;
 *   { base64 }; { json }: an SSE event] }
 *
 * On top of the endpoint's work:
 *
 * - `ok`; `delay` { ms } before the answer, after the work (the token is already spent)
 * - `headers_then_stall`; `stall`, `cut` { after = 3 events of a stream, or half the bytes of a body },
 *   `cut` also { reset: true }; `drip` { ms = 20, bytes = 1 }
 * - `no_finish` without `finish_reason`
 *
 * With any step: `times` (1, Infinity, in JSON "always"); the requests that it applies to: `account`,
 * `match(entry)`, `anyone: true` (also refused tokens and forms); `delay` (ms, a promise
 * or a function that returns one: wait before answering); `status`, `headers`, `contentType`, `body`
 * instead of its own; `strict`; `pace` (ms between events); `end`: "normal", "silence", "destroy" or "reset".
 *
 * ## /_control
 *
 * `GET` returns `{ url, stats, violations, pending, requests }` without secrets. `POST` takes JSON
 * `{ action, … }` and returns `{ ok: true, result }`, or 400 `{ error }`. Actions: script { endpoint,
 * steps }, clearScripts { endpoint }, approve { userCode, account }, deny { userCode },
 * issueToken { account, expiresIn }, addKey { plan, region, account }, revokeAccess { token }, revokeAllAccess
 * { account }, revokeRefresh { token }, setQuota { account, left, retryAfter }, set { options },
 * reset.
 *
 * @module
 */

import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { main } from "./qwen-server/program.mjs";
import { QwenServer } from "./qwen-server/server.mjs";

export { SECRET_PREFIX } from "./qwen-server/secrets.mjs";

/**
 * @typedef {object} Options all but the first four can be changed later with `server.set({ … })`
 * @property {number} [port] 0: any free port
 * @property {{ key: string, cert: string }} [tls] serve https
 * @property {(line: string) => void} [onLog] takes one redacted line per request
 * @property {number} [keepRequests] 10,000: at least this many of the newest stay in `requests`
 * @property {string[]} [accounts] ["alice", "bob"]: offered on the approval page; others may be used
 * @property {boolean | number} [autoApprove] approve each login at once (true), or after this many ms
 * @property {string} [autoApproveAccount] the first of `accounts`
 * @property {string | null} [clientId] Qwen's; null accepts any
 * @property {number} [deviceExpiresIn] 900 s
 * @property {number} [interval] 1 s
 * @property {number} [expiresIn] 21,600 s, fractions too: the lifetime of access tokens
 * @property {boolean} [freeTier] true; false: the free tier has ended, the API refuses the tokens of logins
 * @property {boolean} [strict] true: apply the portal's rules
 * @property {number} [pace] 0 ms between the events of a streamed answer
 */

/**
 * @typedef {object} Entry a request in `server.requests`
 * @property {number} id
 * @property {number} at epoch ms
 * @property {string | undefined} endpoint
 * @property {string} method
 * @property {string} path without the query
 * @property {Record<string, string>} query
 * @property {string} httpVersion
 * @property {Record<string, string>} headers
 * @property {unknown} body parsed if it is JSON or a form
 * @property {string | undefined} rawBody
 * @property {number | undefined} readAt time at which the body was read
 * @property {string | undefined} account owner of the token or key, even if that is refused
 * @property {"oauth" | "api-key" | undefined} kind
 * @property {{ plan: string, region: string } | undefined} place the addressed plan and region
 * @property {string | undefined} step the name of the scripted step
 * @property {number | undefined} status undefined until, or unless, it is answered
 * @property {number} bytes size of the answer's body
 * @property {string[]} violations
 * @property {boolean} closedByClient the client went away before the end
 * @property {number | undefined} finishedAt
 */

/**
 * Starts a server. Its members:
 *
 * - `url`, `apiBaseUrl` (`${url}/v1`), `port`, `close()` (everything at once, sockets included)
 * - `requests` (see `Entry`), `seen(endpoint)`, `waitFor(endpoint or predicate, timeoutMs = 60_000)`: the
 *   first matching entry, past ones too (an endpoint: once its body was read); instead of the time
 *   `{ timeoutMs, count }` waits for the `count`th
 * - `stats`: connections, openSockets, requests, deviceRequests, tokenRequests, polls,
 *   logins, refreshes (requests), redemptions (granted), doubleRedemptions (of a spent token,
 *   unless the first answer was lost: those are `replays`; both revoke all tokens of that login),
 *   models, chats, embeddings, unauthorized, quotaRefusals, closedByClient, bytesSent
 * - `violations`: broken portal rules and malformed OAuth requests; `failures`: the server's own
 *   errors, such as a throwing `match`
 * - `issued`: every secret handed out; those made by this server contain `SECRET_PREFIX`
 * - `script(endpoint, steps)`, `clearScripts(endpoint?)`
 * - `approve(userCode?, { account }?)`, `deny(userCode?)`: without a code, the newest
 *   pending one; `pendingUserCodes`
 * - `issueToken({ account, expiresIn, access_token, refresh_token }?)`: a login, as the contents of an
 *   `oauth_creds.json`; given tokens are adopted
 * - `addKey({ key, plan = "dashscope", region, account, models }?)`: an API key (`sk-sp-…` for a subscription,
 *   `sk-…` for DashScope and for the Token Plan's region "intl");
 *   `placeUrl(plan, region)`: the base URL of a plan and region here
 * - `revokeAccess(token or key)`, `revokeAllAccess(account?)`, `revokeRefresh(token)`
 * - `setQuota(account, left, { retryAfter, code, window, message }?)`: requests left, null is unlimited
 * - `set(options)`, `options`, and `reset()`: forgets scripts, requests, stats and violations, not
 *   tokens and quotas
 *
 * @param {Options} [options]
 * @returns {Promise<QwenServer>}
 */
export async function startQwenServer(options = {}) {
  return new QwenServer(options).listen(options);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  await main(process.argv.slice(2));
}
