import { setTimeout as sleep } from "node:timers/promises";
import { kill } from "./process.mjs";

/** Enough for a first answer on a busy machine. OpenCode itself may retry for ever. */
const TIMEOUT_MS = 120_000;

/** OpenCode over HTTP, in one working directory, with the events that its screen gets. */
export class Service {
  /** @type {{ type: string, properties: object }[]} */
  events = [];
  /** Called with each event as it comes. */
  onEvent = () => {};

  #child;
  #directory;

  /**
   * @param {() => string} output all its output so far
   * @param {string} [directory] the working directory, if it is not that of OpenCode's own process
   */
  constructor(url, child, output, directory) {
    this.url = url;
    this.output = output;
    this.#child = child;
    this.#directory = directory;
  }

  /** The same process in another working directory, where it reads the configuration and loads the plugins anew. */
  async in(directory) {
    const service = new Service(this.url, this.#child, this.output, directory);
    await service.listen();
    return service;
  }

  /** Makes OpenCode read its configuration and load its plugins anew, as its screen does after a login. */
  async reload() {
    await this.request("/instance/dispose", {});
    await this.listen();
  }

  kill(signal) {
    this.#child.kill(signal);
  }

  async close() {
    const ended = new Promise((resolve) => this.#child.on("close", resolve));
    kill(this.#child);
    await ended;
  }

  #address(path) {
    const address = new URL(path, this.url);
    if (this.#directory) address.searchParams.set("directory", this.#directory);
    return address;
  }

  async request(path, body) {
    const response = await fetch(this.#address(path), {
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
    const response = await fetch(this.#address("/event"));
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

  /**
   * Sends a message without waiting for the answer.
   *
   * @param {object} [fields] of the message
   * @param {object} [fields.session] default: a new one, with a title, so OpenCode doesn't ask for one
   * @param {object[]} [fields.parts] beside the text
   */
  async prompt(text, { session, model = "coder-model", parts = [], ...fields } = {}) {
    session ??= (await this.request("/session", { title: "a title" })).body;
    const answer = this.request(`/session/${session.id}/message`, {
      model: { providerID: "qwen-code", modelID: model },
      ...fields,
      parts: [{ type: "text", text }, ...parts],
    });
    return { session, answer };
  }

  /** Sends a message in a new session, and waits until the session is idle. */
  async ask(text, fields) {
    const { session, answer } = await this.prompt(text, fields);
    const { info, parts } = (await answer).body;
    await this.waitForIdle(session);
    const retries = this.events.filter(
      ({ type, properties }) =>
        type === "session.status" &&
        properties.sessionID === session.id &&
        properties.status.type === "retry",
    );
    return {
      session,
      retries: retries.length,
      text: parts.flatMap(({ type, text }) => (type === "text" ? [text] : [])).join(""),
      finish: info.finish,
      error: info.error?.data.message,
    };
  }

  /** Takes a step of a login: "authorize" or "callback". */
  oauth(step, { method = 0, ...fields } = {}) {
    return this.request(`/provider/qwen-code/oauth/${step}`, { method, ...fields });
  }

  /** Runs the command /qwen. */
  qwenCommand({ id }) {
    const command = { command: "qwen", arguments: "", model: "qwen-code/coder-model", agent: "build" };
    return this.request(`/session/${id}/command`, command);
  }

  /** The models of a provider, by id. */
  async models(provider = "qwen-code") {
    const { body } = await this.request("/config/providers");
    return body.providers.find(({ id }) => id === provider).models;
  }
}
