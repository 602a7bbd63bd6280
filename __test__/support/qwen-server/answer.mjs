/**
 * An answer as data: endpoints make it, script steps change it, `deliver`
 * sends it. `body` goes out with a content-length, `parts` (strings, Buffers, and numbers: ms to
 * wait) chunk by chunk. `head: false` sends nothing at all. `end` says what follows the last byte.
 *
 * @typedef {{
 *   status: number, headers: Record<string, string>, head?: false,
 *   body?: string | Buffer, parts?: Iterable<string | Uint8Array | number>,
 *   end?: "normal" | "silence" | "destroy" | "reset",
 * }} Answer
 */

/** @returns {Answer} */
export function json(status, value, headers = {}) {
  return {
    status,
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(value),
  };
}

/** @returns {Answer} */
export function html(status, body) {
  return { status, headers: { "content-type": "text/html; charset=utf-8" }, body };
}

/** @returns {Answer} */
export function sse(parts, headers = {}) {
  return {
    status: 200,
    headers: { "content-type": "text/event-stream", "cache-control": "no-cache", ...headers },
    parts,
  };
}

/** An error in the shape of the API. @returns {Answer} */
export function apiError(status, code, message, { type = "invalid_request_error", headers } = {}) {
  return json(status, { error: { code, message, type, param: null } }, headers);
}

export const event = (value) => `data: ${JSON.stringify(value)}\n\n`;

export const DONE = "data: [DONE]\n\n";
