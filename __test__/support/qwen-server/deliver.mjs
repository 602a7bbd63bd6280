import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Sends an answer at the pace of the socket. Returns early, without an error, when the client leaves.
 *
 * @param {{ res: import("node:http").ServerResponse, entry: object, signal: AbortSignal,
 *   hangUp(how: "destroy" | "reset"): void, rawSocket(): import("node:net").Socket, core: object }} ctx
 * @param {import("./answer.mjs").Answer} answer
 */
export async function deliver(ctx, answer) {
  try {
    await send(ctx, answer);
  } catch (error) {
    if (!ctx.signal.aborted) throw error;
  }
}

/** @param {number | Promise<unknown> | (() => unknown) | undefined} delay ms, or a promise to wait for */
export async function pause({ signal }, delay) {
  if (delay === undefined) return;
  if (typeof delay === "number") return sleep(delay, undefined, { signal });
  signal.throwIfAborted();
  const gone = once(signal, "abort").then(() => signal.throwIfAborted());
  gone.catch(() => {});
  await Promise.race([typeof delay === "function" ? delay() : delay, gone]);
}

async function send(ctx, answer) {
  const { res, entry } = ctx;
  const end = answer.end ?? "normal";
  if (answer.head !== false) {
    entry.status = answer.status;
    const { body } = answer;
    const sized = body !== undefined && { "content-length": String(Buffer.byteLength(body)) };
    res.writeHead(answer.status, { ...sized, ...answer.headers });
    if (answer.parts || end === "silence") res.flushHeaders();
    ctx.core.log.changed();
    await sendParts(ctx, answer.parts ?? (body?.length ? [body] : []));
  }
  if (end === "normal") res.end();
  else if (end !== "silence") {
    await flushed(ctx);
    ctx.hangUp(end);
  }
}

async function sendParts(ctx, parts) {
  const { res, entry, signal, core } = ctx;
  for (const part of parts) {
    signal.throwIfAborted();
    if (typeof part === "number") {
      await sleep(part, undefined, { signal });
    } else if (part.length > 0) {
      const bytes = Buffer.byteLength(part);
      entry.bytes += bytes;
      core.stats.bytesSent += bytes;
      core.log.changed();
      if (!res.write(part)) await once(res, "drain", { signal });
    }
  }
}

/** Flushes the bytes before a cut, which must still arrive. */
async function flushed({ res, rawSocket, signal }) {
  while (rawSocket().writableLength > 0) await sleep(1, undefined, { signal });
  if (res.headersSent) await sleep(5, undefined, { signal });
}
