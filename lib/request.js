"use strict";

// Reads the arguments of fetch as far as a native client needs them. The core validates methods and headers.

const { invalidArgument } = require("./errors");
const { isObject, read, signal: readSignal } = require("./validate");

/** Separates the parts of a head on its way to or from the addon. No header and no method can contain it. */
const SEPARATOR = "\0";
const REDIRECTS = ["follow", "error", "manual"];

/**
 * @param {unknown} input a URL as string or object, or a Request
 * @param {unknown} init
 * @returns {Promise<{url: string, method: string, head: string, body?: string | Uint8Array, utf8Body?: string,
 *   signal?: AbortSignal}>} `head` is one string for the addon: the method, the redirect mode, and the names and values of the
 *   headers
 */
async function readRequest(input, init = {}) {
  if (!isObject(init)) throw invalidArgument("init", "must be an object");
  const source = isRequest(input) ? input : {};
  const pick = (field) => {
    const own = read(init, field, field);
    return own === undefined ? read(source, field, `input.${field}`) : own;
  };
  const signal = pick("signal") ?? undefined;
  if (signal !== undefined) readSignal(signal, "signal");
  signal?.throwIfAborted();
  const method = pick("method") ?? "GET";
  if (typeof method !== "string" || method === "" || method.includes(SEPARATOR))
    throw invalidArgument("method", "must be the name of an HTTP method");
  const redirect = pick("redirect") ?? "follow";
  if (!REDIRECTS.includes(redirect))
    throw invalidArgument("redirect", 'must be "follow", "error" or "manual"');
  const headers = readHeaders(pick("headers"));
  const { body, contentType } = await readBody(bodyOf(init, source, input));
  if (contentType !== null && !hasHeader(headers, "content-type")) headers.push("content-type", contentType);
  const normalized = normalizedMethod(method);
  const head = [normalized, redirect, ...headers].join(SEPARATOR);
  return { url: readUrl(input), method: normalized, head, [bodyField(body)]: body, signal };
}

function isRequest(input) {
  return isObject(input) && !isUrl(input) && typeof read(input, "url", "input") === "string";
}

function isUrl(input) {
  try {
    return input instanceof URL;
  } catch (error) {
    throw invalidArgument("input", "could not be read", error);
  }
}

function readUrl(input) {
  if (typeof input === "string") return input;
  if (isUrl(input)) return input.href;
  if (isRequest(input)) return input.url;
  throw invalidArgument("input", "must be a URL or a Request");
}

/** Writes the usual methods in capitals, as fetch does, and keeps others unchanged. */
function normalizedMethod(method) {
  const upper = method.toUpperCase();
  return ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"].includes(upper) ? upper : method;
}

function readHeaders(headers) {
  if (headers === undefined || headers === null) return [];
  if (!isObject(headers)) throw invalidArgument("headers", "must be Headers, an object or an array of pairs");
  const flat = [];
  const add = (name, value) => {
    if (typeof name !== "string" || isObject(value) || typeof value === "symbol") {
      throw invalidArgument("headers", "must hold names and values that are strings");
    }
    if (value === undefined) return;
    const text = String(value);
    if (name.includes(SEPARATOR) || text.includes(SEPARATOR))
      throw invalidArgument("headers", "contains characters that are not allowed in HTTP headers");
    flat.push(name, text);
  };
  try {
    if (typeof headers[Symbol.iterator] === "function") {
      for (const pair of headers) {
        const [name, value, ...rest] = pair;
        if (value === undefined || rest.length > 0)
          throw invalidArgument("headers", "must hold pairs of name and value");
        add(name, value);
      }
    } else {
      for (const name of Object.keys(headers)) add(name, headers[name]);
    }
  } catch (error) {
    throw error?.code === "ERR_QWEN_INVALID_ARGUMENT"
      ? error
      : invalidArgument("headers", "could not be read", error);
  }
  return flat;
}

function hasHeader(headers, name) {
  return headers.some((entry, index) => index % 2 === 0 && entry.toLowerCase() === name);
}

function bodyOf(init, source, input) {
  const own = read(init, "body", "body");
  if (own !== undefined) return own;
  const inherited = read(source, "body", "input.body");
  return inherited === undefined || inherited === null ? null : input;
}

async function readBody(body) {
  if (body === undefined || body === null) return { contentType: null };
  if (typeof body === "string") return { body, contentType: "text/plain;charset=UTF-8" };
  try {
    if (body instanceof ArrayBuffer || ArrayBuffer.isView(body))
      return { body: bytesOf(body), contentType: null };
    if (typeof body.arrayBuffer === "function" && typeof body.url === "string") {
      return { body: new Uint8Array(await body.arrayBuffer()), contentType: null };
    }
    if (isBodyInit(body)) {
      // The body is read whole, since a rejected token means that it is sent again.
      const response = new Response(body);
      return {
        body: new Uint8Array(await response.arrayBuffer()),
        contentType: response.headers.get("content-type"),
      };
    }
  } catch (error) {
    throw invalidArgument("body", "could not be read", error);
  }
  throw invalidArgument(
    "body",
    "must be a string, bytes, a Blob, FormData, URLSearchParams or a ReadableStream",
  );
}

/**
 * Bun converts a string to UTF-8 fast. Node takes several times as long, so there the core converts it on another thread.
 */
function bodyField(body) {
  return typeof body === "string" && globalThis.Bun !== undefined ? "utf8Body" : "body";
}

function isBodyInit(body) {
  return [Blob, FormData, URLSearchParams, ReadableStream].some((kind) => body instanceof kind);
}

/** Returns a copy of the bytes of a buffer. Throws for a detached buffer. */
function bytesOf(body) {
  const buffer = ArrayBuffer.isView(body) ? body.buffer : body;
  const view = new Uint8Array(buffer, body.byteOffset ?? 0, body.byteLength);
  if (view.byteLength === 0 && isDetached(buffer)) throw new TypeError("the buffer is detached");
  // The caller may change its bytes as soon as fetch has returned.
  return view.slice();
}

function isDetached(buffer) {
  try {
    return new Uint8Array(buffer).byteLength < 0;
  } catch {
    return true;
  }
}

module.exports = { SEPARATOR, readRequest };
