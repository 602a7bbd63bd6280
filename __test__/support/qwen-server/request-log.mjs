import { redact } from "./secrets.mjs";

/** Every request, in the order of arrival, and the waiters for one. */
export class RequestLog {
  #waiting = new Set();
  #next = 1;
  #write;
  #keep;
  entries = [];

  /**
   * @param {((line: string) => void) | undefined} write takes one redacted line per request
   * @param {number} keep number of newest entries that always stay
   */
  constructor(write, keep) {
    this.#write = write;
    this.#keep = keep;
  }

  open(req, endpoint) {
    const entry = {
      id: this.#next++,
      at: Date.now(),
      endpoint,
      method: req.method,
      path: req.url.split("?")[0],
      query: Object.fromEntries(new URL(req.url, "http://localhost").searchParams),
      httpVersion: req.httpVersion,
      headers: { ...req.headers },
      body: undefined,
      rawBody: undefined,
      readAt: undefined,
      account: undefined,
      kind: undefined,
      place: undefined,
      step: undefined,
      status: undefined,
      bytes: 0,
      violations: [],
      closedByClient: false,
      finishedAt: undefined,
    };
    this.entries.push(entry);
    // In steps: shifting a long array at each request would slow benchmarks.
    if (this.entries.length >= 2 * this.#keep) this.entries.splice(0, this.#keep);
    return entry;
  }

  finish(entry, closedByClient) {
    if (entry.finishedAt !== undefined) return;
    entry.finishedAt = Date.now();
    entry.closedByClient = closedByClient;
    this.#write?.(lineOf(entry));
    this.changed();
  }

  changed() {
    for (const check of this.#waiting) check();
  }

  waitFor(what, options = {}) {
    const { timeoutMs = 60_000, count = 1 } = typeof options === "number" ? { timeoutMs: options } : options;
    const fits =
      typeof what === "function" ? what : (entry) => entry.endpoint === what && entry.readAt !== undefined;
    return new Promise((resolve, reject) => {
      const done = (settle, value) => {
        clearTimeout(timer);
        this.#waiting.delete(check);
        settle(value);
      };
      const check = (failure) => {
        if (failure) return done(reject, failure);
        const found = this.entries.filter((entry) => fits(entry));
        if (found.length >= count) done(resolve, found[count - 1]);
      };
      const timer = setTimeout(() => {
        const seen = this.entries.map(({ endpoint, status }) => `${endpoint} ${status ?? "open"}`).join(", ");
        done(reject, new Error(`no such request within ${timeoutMs} ms; seen: ${seen || "none"}`));
      }, timeoutMs);
      this.#waiting.add(check);
      check();
    });
  }

  clear() {
    this.entries.length = 0;
  }

  /** Unreferences the timers, so that waiters don't keep the process alive. */
  close() {
    for (const check of this.#waiting) check(new Error("the server was closed"));
  }

  redacted(issued) {
    return this.entries.map((entry) => redact({ ...entry, rawBody: undefined }, issued));
  }
}

function lineOf(entry) {
  const { body } = entry;
  const form = ["grant_type", "refresh_token", "device_code"].flatMap((field) =>
    body?.[field] ? [`${field}=${field === "grant_type" ? body[field].split(":").at(-1) : "…"}`] : [],
  );
  return redact(
    [
      new Date(entry.at).toISOString().slice(11, 23),
      entry.method,
      entry.path,
      entry.status ?? "---",
      ...(entry.endpoint === "token" ? form : []),
      entry.account,
      ...(entry.endpoint === "chat" ? [body?.model, body?.stream ? "stream" : "json"] : []),
      `${entry.bytes}B`,
      `${entry.finishedAt - entry.at}ms`,
      entry.step && `step=${entry.step}`,
      entry.closedByClient && "closed by client",
      entry.violations.length > 0 && `violations: ${entry.violations.join("; ")}`,
    ]
      .filter(Boolean)
      .join(" "),
  );
}
