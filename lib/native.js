"use strict";

// Calls into the native core. The core identifies a call by a number; this file stores the promise for each number. The core
// wakes this thread once when there is news, and `drain` returns all of it.

const { QwenAuthError, fromBinding, invalidArgument } = require("./errors");

let addon;
let bridge;
let lastId = 0;
let isKeptAlive = false;
/** Calls that wait for a result, by id. */
const calls = new Map();
/** Functions that resume the readers of bodies, by id. */
const readers = new Map();
/** Listeners for a client's events and a gateway's requests, by id. */
const listeners = new Map();
/** Clients with an open gateway. Garbage collection of a client would close its gateway. */
const gateways = new Set();

/**
 * Bun loses a call of a threadsafe function that arrives while the previous one returns, and the core calls again only
 * after its news was taken. So in Bun the news is taken after the call has returned; otherwise a session would hang.
 * `setImmediate` is saved here in case a test replaces the timers.
 */
const onceAwake = globalThis.Bun === undefined ? (take) => take() : setImmediate;

/**
 * Returns the bridge of this environment, which the first use creates: importing the package starts nothing. Throws if no addon
 * can be loaded.
 */
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

/** Returns the pages that show a user's keys: `{ plan, title, region, page }`. */
function keyPages() {
  connect();
  return addon.keyPages();
}

/** Quotes a word of a command for the user's shell. */
function shellWord(text) {
  connect();
  return addon.shellWord(text);
}

/** Quotes an id or a label as an operand of this package's command line. */
function shellOperand(text) {
  connect();
  return addon.shellOperand(text);
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
    // The call was aborted before its response arrived, so the rest of the body is not needed.
    if (call === undefined && kind === "response") content.at(-1).cancel?.();
    call?.succeed(content);
  }
}

/** Ignores the errors of a listener, which must not reach another caller. */
function tell(listener, value) {
  try {
    listener?.(value);
  } catch {
    // The listener has to handle its own errors.
  }
}

/** Lets the process end when no call or reader waits, no gateway is open, and no token is being written. */
function keepAlive() {
  const alive = calls.size > 0 || readers.size > 0 || needsGateway() || bridge.isBusy();
  if (alive !== isKeptAlive) {
    isKeptAlive = alive;
    bridge.keepAlive(alive);
  }
}

/**
 * Never removed from a signal. In Bun, a signal of `AbortSignal.timeout` that has lost its last listener never fires again,
 * not even for new listeners. A signal has this listener once, however many calls use the signal.
 */
const stayListening = () => {};

/** Ignores what a caller's own kind of signal throws, so that other calls still get their news. */
function stopListening(signal, listener) {
  try {
    signal?.removeEventListener("abort", listener);
  } catch {
    // The caller has to handle the errors of its own signal.
  }
}

/**
 * Starts a call and waits for its result.
 *
 * @param {(bridge: object, id: number) => void} start
 * @param {{signal?: AbortSignal, scope?: Set<(reason: unknown) => void>, onProgress?: (value: unknown) => void}} options
 *   `scope` holds a function that aborts the call while it is in progress
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
    const onAbort = () => abort(signal?.reason);
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

/** Resolves when a body has something to read again. */
function readable(id) {
  return new Promise((resolve) => {
    readers.set(id, resolve);
    keepAlive();
  });
}

/** Ends the reading of a body. */
function forget(id) {
  const resume = readers.get(id);
  readers.delete(id);
  resume?.();
  if (bridge !== undefined) keepAlive();
}

/**
 * Returns true on the main thread. Node's module for this is loaded only when it is needed, since loading it takes as long
 * as the rest of this package.
 */
function isMainThread() {
  return globalThis.Bun?.isMainThread ?? require("node:worker_threads").isMainThread;
}

/** Calls `listener` with the core's news for the returned id, until `release` is called. */
function listen(listener) {
  const id = nextId();
  listeners.set(id, listener);
  return { id, release: () => listeners.delete(id) };
}

/**
 * Keeps a client with an open gateway alive until the returned function is called. A gateway in the background doesn't keep
 * the process alive.
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
 * Writes the usage and waits for a refresh in progress at the end of the process. On Windows the addon can't do this itself,
 * so the main thread's `exit` event triggers it. On other systems the C library calls the addon.
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

/** Creates a native client whose events go to `onEvent`. Throws a `QwenAuthError` for wrong settings. */
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
  call,
  connect,
  createNativeClient,
  finishAtExit,
  forget,
  isMainThread,
  listen,
  keyPages,
  readable,
  shellOperand,
  shellWord,
  stayOpen,
  stopListening,
};
