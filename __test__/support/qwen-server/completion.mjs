import { createHash, randomUUID } from "node:crypto";
import { DONE, event, json, sse } from "./answer.mjs";
import { countedWords, textsOf } from "./brain.mjs";

const tokensIn = (value) => Math.ceil(JSON.stringify(value ?? "").length / 4);

/** Makes the chunks of one streamed completion. */
export function chunkOf({ id, created, model }) {
  return (delta, finish_reason = null) => ({
    id,
    object: "chat.completion.chunk",
    created,
    model,
    system_fingerprint: null,
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
  });
}

/**
 * Turns the model's answer into an OpenAI-compatible one, streamed if the request asks for it.
 *
 * @param {ReturnType<typeof import("./brain.mjs").think>} thought
 * @param {object} body
 * @param {{ cached: Set<string> }} account remembers which prefixes it has seen
 * @param {number} pace ms between events
 */
export function completion(thought, body, account, pace) {
  const head = { id: `chatcmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model: body.model };
  const limit = body.max_tokens ?? body.max_completion_tokens ?? Infinity;
  const answer = { head, limit, thought, body, prompt: promptUsage(body, account) };
  return body.stream ? sse(streamed(answer, pace)) : json(200, whole(answer));
}

function promptUsage(body, account) {
  const marked = [body.messages ?? []]
    .flat()
    .find(
      (message) => Array.isArray(message?.content) && message.content.some((part) => part?.cache_control),
    );
  let cached_tokens = 0;
  if (marked) {
    const prefix = JSON.stringify(textsOf(marked.content));
    const print = createHash("sha256").update(prefix).digest("base64");
    if (account.cached.has(print)) cached_tokens = tokensIn(prefix);
    account.cached.add(print);
  }
  return { prompt_tokens: tokensIn(body.messages) + (body.tools ? tokensIn(body.tools) : 0), cached_tokens };
}

function usageOf({ prompt_tokens, cached_tokens }, completion_tokens) {
  return {
    prompt_tokens,
    completion_tokens,
    total_tokens: prompt_tokens + completion_tokens,
    prompt_tokens_details: { cached_tokens: Math.min(cached_tokens, prompt_tokens) },
  };
}

function pieces({ text, words }) {
  if (words !== undefined) return countedWords(words);
  // Sending megabytes word by word would only cost time.
  return text.match(text.length > 20_000 ? /.{1,1000}/gsu : /\s*\S+\s*/g) ?? (text ? [text] : []);
}

function toolCalls({ calls }) {
  return calls.map((call) => ({
    id: `call_${randomUUID().replaceAll("-", "").slice(0, 24)}`,
    type: "function",
    function: { name: call.name, arguments: call.arguments },
  }));
}

function whole({ head, limit, thought, prompt }) {
  let message;
  let finish_reason = "stop";
  let produced = 0;
  if (thought.calls) {
    message = { role: "assistant", content: "", tool_calls: toolCalls(thought) };
    finish_reason = "tool_calls";
    produced = tokensIn(message.tool_calls);
  } else {
    let content = "";
    for (const piece of pieces(thought)) {
      if (produced >= limit) {
        finish_reason = "length";
        break;
      }
      content += piece;
      produced += 1;
    }
    message = { role: "assistant", content };
  }
  return {
    id: head.id,
    object: "chat.completion",
    created: head.created,
    model: head.model,
    choices: [{ index: 0, message, logprobs: null, finish_reason }],
    usage: usageOf(prompt, produced),
  };
}

function* streamed({ head, limit, thought, body, prompt }, pace) {
  const chunk = chunkOf(head);
  let finish = "stop";
  let produced = 0;
  yield event(chunk({ role: "assistant", content: "" }));
  if (thought.calls) {
    finish = "tool_calls";
    for (const delta of toolDeltas(thought)) {
      produced += 1;
      if (pace) yield pace;
      yield event(chunk({ tool_calls: [delta] }));
    }
  } else {
    for (const content of pieces(thought)) {
      if (produced >= limit) {
        finish = "length";
        break;
      }
      produced += 1;
      if (pace) yield pace;
      yield event(chunk({ content }));
    }
  }
  yield event(chunk({}, finish));
  if (body.stream_options?.include_usage) {
    yield event({ ...chunk({}), choices: [], usage: usageOf(prompt, produced) });
  }
  yield DONE;
}

/** The first delta of a call has its name, the others carry its arguments in fragments. */
function* toolDeltas(thought) {
  for (const [index, call] of toolCalls(thought).entries()) {
    yield { index, id: call.id, type: "function", function: { name: call.function.name, arguments: "" } };
    const text = call.function.arguments;
    const size = Math.max(1, Math.ceil(text.length / 4));
    for (let at = 0; at < text.length; at += size) {
      yield { index, function: { arguments: text.slice(at, at + size) } };
    }
  }
}
