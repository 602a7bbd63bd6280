"use strict";

// Turns a native response into a standard Response.

const { QwenAuthError } = require("./errors");
const { forget, readable, stopListening } = require("./native");
const { SEPARATOR } = require("./request");

const STATUSES_WITHOUT_BODY = [204, 205, 304];

/**
 * Number of SSE comments (":\n") sent before an error. An error discards text still queued in OpenCode's streams, and a
 * comment is only pulled after the text before it.
 */
const COMMENTS = 10;
const COMMENT_MS = 25;

/**
 * @param {[number, string, string, string, any]} answer the status and its text, the URL, the names and values of the headers,
 *   and the body: all its bytes, or an object to read them from
 * @param {{method: string, signal?: AbortSignal, scope: Set<(reason: unknown) => void>, forOpenCode: boolean}} context
 */
function toResponse([status, statusText, url, head, body], { method, signal, scope, forOpenCode }) {
  const stream = body instanceof Uint8Array ? undefined : body;
  if (status < 200 || status > 599) {
    stream?.cancel();
    throw new QwenAuthError({
      code: "ERR_QWEN_INVALID_RESPONSE",
      message: `The server answered with HTTP status ${status}, which is not valid. Check the base URL, then try again.`,
      status,
      retryable: false,
    });
  }
  const pairs = head.split(SEPARATOR);
  /** @type {[string, string][]} */
  const headers = [];
  for (let index = 0; index < pairs.length - 1; index += 2) headers.push([pairs[index], pairs[index + 1]]);
  const hasBody = method !== "HEAD" && !STATUSES_WITHOUT_BODY.includes(status);
  if (!hasBody) stream?.cancel();
  const isEvents =
    forOpenCode &&
    headers.some(([name, value]) => name === "content-type" && value.startsWith("text/event-stream"));
  const content = hasBody ? (stream === undefined ? body : toStream(stream, signal, scope, isEvents)) : null;
  const response = new Response(content, { status, statusText, headers });
  // A constructed Response has no URL, but clients read it.
  Object.defineProperty(response, "url", { value: url, configurable: true });
  return response;
}

/** Returns a byte stream that reads from the network only when it is read. */
function toStream(body, signal, scope, isEvents) {
  const { id } = body;
  let watch;
  let comments = isEvents ? COMMENTS : 0;
  /** Lives as long as the stream, so that an abort finds it. Bun may collect it otherwise. */
  let controller;
  return new ReadableStream(
    {
      type: "bytes",
      start(own) {
        controller = own;
        watch = watchForAbort(new WeakRef(controller), new WeakRef(body), id, signal, scope);
      },
      async pull() {
        let data = body.read();
        while (data === null) {
          await readable(id);
          data = body.read();
        }
        if (data instanceof Uint8Array) {
          controller.enqueue(data);
          return;
        }
        if (data !== true && comments > 0) {
          comments -= 1;
          await new Promise((resolve) => setTimeout(resolve, COMMENT_MS));
          comment(controller);
          return;
        }
        watch.end();
        if (data === true) {
          close(controller);
        } else {
          controller.error(new QwenAuthError(data));
        }
      },
      cancel() {
        watch.end();
        body.cancel();
        forget(id);
      },
    },
    { highWaterMark: 0 },
  );
}

/**
 * Ends a stream when its signal is aborted or its client is closed. The stream is held weakly, so that an unread response is
 * collected, and thereby cancelled, while the signal and the client still exist.
 */
function watchForAbort(controller, body, id, signal, scope) {
  const abort = (reason) => {
    end();
    body.deref()?.cancel();
    controller.deref()?.error(reason);
    forget(id);
  };
  const onAbort = () => abort(signal.reason);
  const end = () => {
    scope.delete(abort);
    stopListening(signal, onAbort);
  };
  if (signal?.aborted) {
    onAbort();
  } else {
    signal?.addEventListener("abort", onAbort, { once: true });
    scope.add(abort);
  }
  return { end };
}

function comment(controller) {
  try {
    controller.enqueue(Uint8Array.of(0x3a, 0x0a));
  } catch {
    // The stream was cancelled or aborted meanwhile.
  }
}

function close(controller) {
  try {
    controller.close();
    controller.byobRequest?.respond(0);
  } catch {
    // The stream was cancelled or aborted during the last read.
  }
}

module.exports = { toResponse };
