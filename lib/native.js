"use strict";

// Calls into the native core. A call is a number there and a promise here: one wake-up of the core says that there is
// news, and `drain` takes all of it.

const { QwenAuthError, fromBinding, invalidArgument } = require("./errors");

let addon;
let bridge;
let lastId = 0;
let isKeptAlive = false;
/** Calls that wait for their result. */
const calls = new Map();
/** Bodies whose reader waits for bytes. */
const readers = new Map();
/** Listeners for a client's events, and for a gateway's requests. */
const listeners = new Map();
/** Clients with an open gateway, which would be closed if its client were collected. */
const gateways = new Set();

/**
 * Bun loses a call of a threadsafe function that comes just as the last one returns, and the core calls again only once its
 * news was taken: so there it is taken when the call has returned, or a session would hang. Kept from here, in case
 * somebody fakes the timers.
 */
const onceAwake = globalThis.Bun === undefined ? (take) => take() : setImmediate;

/** The bridge of this environment, made at the first use: importing the package starts nothing. */
function connect() {
  if (bridge === undefined) {
    try {
      addon = require("../binding").load();
      bridge = new addon.Bridge(() => onceAwake(takeNews));
    } catch (error) {
      throw fromBinding(error);
    }
  }
  return bridge;
}

/** The version of the addon. Throws where there is none that can be loaded. */
function addonVersion() {
  connect();
  return addon.version();
}

/** The places of keys, each with the page that shows its keys: `{ plan, title, region, page }`. */
function keyPages() {
  connect();
  return addon.keyPages();
}

function nextId() {
  lastId = (lastId + 1) >>> 0;
  return lastId;
}

function takeNews() {
  const news = bridge.drain();
  for (let at = 0; at < news.length; at += 3) deliver(news[at], news[at + 1], news[at + 2]);
  keepAlive();
}

function deliver(id, kind, content) {
  if (kind === "readable") {
    const resume = readers.get(id);
    readers.delete(id);
    resume?.();
  } else if (kind === "event") {
    tell(listeners.get(id), content);
  } else if (kind === "progress") {
    tell(calls.get(id)?.onProgress, content);
  } else if (kind === "error") {
    calls.get(id)?.fail(new QwenAuthError(content));
  } else {
    const call = calls.get(id);
    // An answer that nobody waits for any more, and whose bytes are still to come.
    if (call === undefined && kind === "response") content.at(-1).cancel?.();
    call?.succeed(content);
  }
}

/** A listener's own errors must not end up in the middle of somebody else's call. */
function tell(listener, value) {
  try {
    listener?.(value);
  } catch {
    // It is the listener's to handle.
  }
}

/** The process may end once no call and no reader waits, no gateway is open, and no token is being written. */
function keepAlive() {
  const alive = calls.size > 0 || readers.size > 0 || needsGateway() || bridge.isBusy();
  if (alive !== isKeptAlive) {
    isKeptAlive = alive;
    bridge.keepAlive(alive);
  }
}

/**
 * Is never removed from a signal: in Bun, one of `AbortSignal.timeout` that has lost its last listener never fires, not
 * for listeners that come later either. A signal has it once, however many calls it is given to.
 */
const stayListening = () => {};

/** The signal may be of the caller's own making: what it throws must not keep other calls' news from them. */
function stopListening(signal, listener) {
  try {
    signal?.removeEventListener("abort", listener);
  } catch {
    // It is the caller's to handle.
  }
}

/**
 * Starts a call and waits for its result.
 *
 * @param {(bridge: object, id: number) => void} start
 * @param {{signal?: AbortSignal, scope?: Set<(reason: unknown) => void>, onProgress?: (value: unknown) => void}} options
 *   `scope` gets a function that ends the call, for as long as it is under way
 */
function call(start, { signal, scope, onProgress } = {}) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const connected = connect();
    const id = nextId();
    const finish = () => {
      calls.delete(id);
      scope?.delete(abort);
      stopListening(signal, onAbort);
    };
    const abort = (reason) => {
      finish();
      connected.cancel(id);
      reject(reason);
      keepAlive();
    };
    const onAbort = () => abort(signal.reason);
    const succeed = (value) => {
      finish();
      resolve(value);
    };
    const fail = (error) => {
      finish();
      reject(error);
    };
    try {
      signal?.addEventListener("abort", onAbort, { once: true });
      signal?.addEventListener("abort", stayListening, { once: true });
    } catch (thrown) {
      reject(invalidArgument("signal", "could not be listened to", thrown));
      return;
    }
    calls.set(id, { succeed, fail, onProgress });
    scope?.add(abort);
    try {
      start(connected, id);
    } catch (thrown) {
      fail(fromBinding(thrown));
    }
    keepAlive();
  });
}

/** Resolves when a body that had nothing to read has something. */
function readable(id) {
  return new Promise((resolve) => {
    readers.set(id, resolve);
    keepAlive();
  });
}

/** Nobody reads this body any more. */
function forget(id) {
  const resume = readers.get(id);
  readers.delete(id);
  resume?.();
  if (bridge !== undefined) keepAlive();
}

/**
 * Whether this is the main thread. Asked when it matters, since loading Node's module for it takes as long as the rest of
 * this package.
 */
function isMainThread() {
  return globalThis.Bun?.isMainThread ?? require("node:worker_threads").isMainThread;
}

/** Calls `listener` with what the core tells by the id that this gives. */
function listen(listener) {
  const id = nextId();
  listeners.set(id, listener);
  return { id, release: () => listeners.delete(id) };
}

/**
 * Holds on to a client with an open gateway, until the function that this gives is called. The process may end meanwhile
 * if the gateway is in the background.
 */
function stayOpen(client, isBackground) {
  const gateway = { client, isBackground };
  gateways.add(gateway);
  keepAlive();
  return () => {
    if (gateways.delete(gateway)) keepAlive();
  };
}

function needsGateway() {
  return [...gateways].some(({ isBackground }) => !isBackground);
}

let finishesAtExit = false;

/**
 * On Windows the addon can't act at the end of the process, so the main thread's `exit` event makes it write what was
 * counted and wait for a refresh token that was sent. Elsewhere the C library calls the addon itself.
 */
function finishAtExit() {
  if (finishesAtExit || process.platform !== "win32") return;
  finishesAtExit = true;
  if (!isMainThread()) return;
  process.once("exit", () => {
    try {
      addon.finish();
    } catch {
      // The process ends, so there is no place left to report it.
    }
  });
}

/** Makes a native client whose events go to `onEvent`. Throws what is wrong with the settings. */
function createNativeClient(settings, env, onEvent) {
  const connected = connect();
  const id = nextId();
  if (onEvent !== undefined) listeners.set(id, onEvent);
  const { client, error } = addon.createClient(connected, id, settings, env);
  if (error !== undefined) {
    listeners.delete(id);
    throw new QwenAuthError(error);
  }
  return { client, release: () => listeners.delete(id) };
}

module.exports = {
  addonVersion,
  call,
  createNativeClient,
  finishAtExit,
  forget,
  isMainThread,
  listen,
  keyPages,
  readable,
  stayOpen,
  stopListening,
};
