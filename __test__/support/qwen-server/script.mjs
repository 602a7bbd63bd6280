import { stepNames } from "./steps.mjs";

const ENDPOINTS = ["device", "token", "models", "chat", "embeddings"];

/** Queued steps per endpoint: a request takes the first that fits it. */
export class Scripts {
  #queues = new Map(ENDPOINTS.map((endpoint) => [endpoint, []]));

  #queue(endpoint) {
    const queue = this.#queues.get(endpoint);
    if (!queue) throw new TypeError(`unknown endpoint "${endpoint}", not one of ${ENDPOINTS.join(", ")}`);
    return queue;
  }

  add(endpoint, steps) {
    this.#queue(endpoint).push(...[steps].flat().map(normalize));
  }

  clear(endpoint) {
    if (endpoint !== undefined) this.#queue(endpoint).length = 0;
    else for (const queue of this.#queues.values()) queue.length = 0;
  }

  take(endpoint, entry, authorized) {
    const queue = this.#queues.get(endpoint) ?? [];
    const index = queue.findIndex(
      (step) =>
        (authorized || step.anyone) &&
        (step.account === undefined || step.account === entry.account) &&
        (!step.match || step.match(entry)),
    );
    if (index < 0) return undefined;
    const step = queue[index];
    step.times -= 1;
    if (step.times <= 0) queue.splice(index, 1);
    return step;
  }
}

function normalize(given) {
  const step = typeof given === "string" ? { do: given } : { ...given };
  if (step.do === undefined) {
    if (step.events !== undefined) step.do = "events";
    else step.do = step.status !== undefined || step.body !== undefined ? "answer" : "ok";
  }
  if (!stepNames.includes(step.do)) {
    throw new TypeError(`unknown step "${step.do}", not one of ${stepNames.join(", ")}`);
  }
  // JSON has no Infinity.
  const times = step.times === "always" || step.times === "Infinity" ? Infinity : (step.times ?? 1);
  if (!(times >= 1)) throw new TypeError(`times must be at least 1, got ${step.times}`);
  return { ...step, times };
}
