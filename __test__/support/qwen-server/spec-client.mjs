import assert from "node:assert/strict";
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { test } from "node:test";
import { startQwenServer } from "../qwen-server.mjs";

const CLIENT_ID = "f0304373b74a44d2b584a3fb70ca9e56";
const DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code";

/** A system message in the form that the portal requires. */
export const SYSTEM = {
  role: "system",
  content: [{ type: "text", text: "You help.", cache_control: { type: "ephemeral" } }],
};

/**
 * A test with a server and a client.
 *
 * @param {string} name
 * @param {import("../qwen-server.mjs").Options} options
 * @param {(server: import("./server.mjs").QwenServer, client: ReturnType<typeof clientOf>) => Promise<void>} run
 */
export function qwenTest(name, options, run) {
  test(name, async () => {
    const server = await startQwenServer(options);
    try {
      await run(server, clientOf(server));
      assert.deepEqual(server.failures, []);
    } finally {
      await server.close();
    }
  });
}

/** Requests of a well-behaved client, as alice. */
export function clientOf(server) {
  const form = async (path, fields, { headers, signal } = {}) => {
    const response = await fetch(`${server.url}/api/v1/oauth2/${path}`, {
      method: "POST",
      headers,
      signal,
      body: new URLSearchParams(fields),
    });
    const text = await response.text();
    return {
      status: response.status,
      text,
      body: /json/.test(response.headers.get("content-type")) && JSON.parse(text),
    };
  };
  const verifier = randomBytes(32).toString("base64url");
  const challenge = createHash("sha256").update(verifier).digest("base64url");
  const tokens = server.issueToken({ account: "alice" });
  const headers = {
    authorization: `Bearer ${tokens.access_token}`,
    "content-type": "application/json",
    "user-agent": "test/1",
    "x-dashscope-useragent": "test/1",
    "x-dashscope-authtype": "qwen-oauth",
  };
  const client = {
    tokens,
    device: (fields = {}, more = { "x-request-id": randomUUID() }) =>
      form(
        "device/code",
        {
          client_id: CLIENT_ID,
          scope: "openid",
          code_challenge: challenge,
          code_challenge_method: "S256",
          ...fields,
        },
        { headers: more },
      ),
    poll: (device_code, code_verifier = verifier) =>
      form("token", { grant_type: DEVICE_GRANT, client_id: CLIENT_ID, device_code, code_verifier }),
    refresh: (refresh_token = tokens.refresh_token, options = {}) =>
      form("token", { grant_type: "refresh_token", client_id: CLIENT_ID, refresh_token }, options),
    get: (path, more = {}) => fetch(`${server.apiBaseUrl}/${path}`, { headers: { ...headers, ...more } }),
    post: (path, body, { headers: more, signal } = {}) =>
      fetch(`${server.apiBaseUrl}/${path}`, {
        method: "POST",
        headers: { ...headers, ...more },
        body: JSON.stringify(body),
        signal,
      }),
    chat: (content, extra = {}, more = {}) =>
      client.post(
        "chat/completions",
        { model: "coder-model", messages: [SYSTEM, { role: "user", content }], ...extra },
        more,
      ),
  };
  return client;
}

export const stream = { stream: true, stream_options: { include_usage: true } };
