import { setTimeout as sleep } from "node:timers/promises";
import { kill } from "./process.mjs";

/** Enough for a first answer on a busy machine. OpenCode itself may retry for ever. */
const TIMEOUT_MS = 60_000;

/** OpenCode over HTTP, with the events that its screen gets. */
export class Service {
  /** @type {{ type: string, properties: object }[]} */
  events = [];
  /** Called with each event as it comes. */
  onEvent = () => {};

  #child;

  /** @param {() => string} output all its output so far */
  constructor(url, child, output) {
    this.url = url;
    this.output = output;
    this.#child = child;
  }

  kill(signal) {
    this.#child.kill(signal);
  }

  async close() {
    const ended = new Promise((resolve) => this.#child.on("close", resolve));
    kill(this.#child);
    await ended;
  }

  async request(path, body) {
    const response = await fetch(`${this.url}${path}`, {
      method: body === undefined ? "GET" : "POST",
      headers: { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const text = await response.text();
    return { status: response.status, body: text === "" ? undefined : JSON.parse(text) };
  }

  /** Resolves once OpenCode sends its events. They end with it. */
  async listen() {
    const response = await fetch(`${this.url}/event`);
    const read = async () => {
      let text = "";
      for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
        const lines = (text + part).split("\n");
        text = lines.pop();
        for (const line of lines) {
          if (!line.startsWith("data:")) continue;
          const event = { at: Date.now(), ...JSON.parse(line.slice(5)) };
          this.events.push(event);
          this.onEvent(event);
        }
      }
    };
    read().catch(() => {});
  }

  /** The first matching event, past ones too. */
  async waitForEvent(fits, timeoutMs = TIMEOUT_MS) {
    const until = Date.now() + timeoutMs;
    while (Date.now() < until) {
      const found = this.events.find(fits);
      if (found) return found;
      await sleep(20);
    }
    const types = [...new Set(this.events.map(({ type }) => type))];
    throw new Error(`no such event within ${timeoutMs} ms, but ${types.join(", ")}`);
  }

  /** Resolves when a session is idle; until then, events may be late. */
  waitForIdle(session) {
    return this.waitForEvent(
      ({ type, properties }) => type === "session.idle" && properties.sessionID === session.id,
    );
  }

  waitForToast(message) {
    return this.waitForEvent(
      ({ type, properties }) => type === "tui.toast.show" && message.test(properties.message),
    );
  }

  /** Sends a message in a new session without waiting for the answer. */
  async prompt(text, model = "coder-model", fields = {}) {
    const { body: session } = await this.request("/session", { title: "a title" });
    const answer = this.request(`/session/${session.id}/message`, {
      model: { providerID: "qwen-code", modelID: model },
      ...fields,
      parts: [{ type: "text", text }],
    });
    return { session, answer };
  }
}
