import { capOf, takesImages } from "./models.mjs";

/** Largest number of cache markers. */
const MOST_MARKERS = 4;
const QWEN = /^(?:qwen|coder-model$|vision-model$)/;

/** Lists the portal's objections to the headers of any request. @returns {string[]} */
export function headerFaults({ method, headers }, kind) {
  const faults = [];
  const type = headers["content-type"] ?? "none";
  if (method === "POST" && !/^application\/json\b/i.test(type)) {
    faults.push(`content-type must be application/json, got ${type}`);
  }
  const wanted = kind === "api-key" ? "openai" : "qwen-oauth";
  const authType = headers["x-dashscope-authtype"];
  if (authType !== wanted) {
    faults.push(`X-DashScope-AuthType must be ${wanted}, got ${authType ?? "none"}`);
  }
  if (!headers["user-agent"]) faults.push("User-Agent is missing");
  if (!headers["x-dashscope-useragent"]) faults.push("X-DashScope-UserAgent is missing");
  return faults;
}

/** Lists the portal's objections to a chat request. @returns {string[]} */
export function chatFaults(body, kind) {
  if (!body || typeof body !== "object" || Array.isArray(body)) return ["the body must be a JSON object"];
  const { messages } = body;
  if (!Array.isArray(messages) || messages.length === 0) return ["messages must be a non-empty array"];
  if (messages.some((message) => !message || typeof message !== "object")) {
    return ["each of messages must be an object"];
  }
  return [
    ...limitFaults(body),
    ...roleFaults(messages),
    ...contentFaults(messages),
    ...(kind === "oauth" ? systemFaults(messages) : []),
    ...familyFaults(body),
    ...markerFaults(body),
    ...imageFaults(body.model, messages),
    ...toolFaults(messages),
  ];
}

function limitFaults(body) {
  const faults = [];
  for (const field of ["max_tokens", "max_completion_tokens"]) {
    const value = body[field];
    if (value === undefined || value === null) continue;
    const cap = capOf(body.model);
    if (!Number.isInteger(value) || value < 1) faults.push(`${field} must be a positive integer`);
    else if (value > cap) faults.push(`Range of ${field} should be [1, ${cap}], got ${value}`);
  }
  if (body.stream_options && !body.stream) {
    faults.push("stream_options is only allowed when stream is enabled");
  }
  return faults;
}

function roleFaults(messages) {
  return messages.flatMap(({ role }, index) =>
    ["system", "user", "assistant", "tool"].includes(role)
      ? []
      : [`messages[${index}].role "${role}" is not one of system, user, assistant, tool`],
  );
}

function contentFaults(messages) {
  return messages.flatMap(({ content }, index) =>
    Array.isArray(content) && content.length === 0 ? [`messages[${index}].content must not be empty`] : [],
  );
}

/** Lists the objections of other makers' models on the same hosts. */
function familyFaults({ model, messages, metadata, tools }) {
  const faults = [];
  if (metadata !== undefined && !QWEN.test(model)) faults.push("invalid request");
  const isPlain = /^glm/i.test(model) && !tools?.length;
  if (isPlain && messages.some(({ role, content }) => role === "system" && Array.isArray(content)))
    faults.push("the system message of this model must be a string");
  return faults;
}

function markerFaults({ messages, tools }) {
  const parts = [...messages.flatMap(({ content }) => content ?? []), ...messages, ...(tools ?? [])];
  const count = parts.filter((part) => part?.cache_control !== undefined).length;
  return count > MOST_MARKERS ? [`${count} cache_control markers, at most ${MOST_MARKERS} are allowed`] : [];
}

function systemFaults(messages) {
  const faults = [];
  const places = messages.flatMap(({ role }, index) => (role === "system" ? [index] : []));
  if (places.length > 1) faults.push(`${places.length} system messages, only one is allowed`);
  else if (places.length === 1 && places[0] !== 0) faults.push("the system message must come first");
  for (const place of places) {
    const { content } = messages[place];
    if (!Array.isArray(content) || !content.some((part) => part?.cache_control?.type === "ephemeral")) {
      faults.push(`messages[${place}] (system) must have array content with a cache_control part`);
    }
  }
  return faults;
}

function imageFaults(model, messages) {
  const images = messages.some(
    ({ content }) => Array.isArray(content) && content.some((part) => part?.type === "image_url"),
  );
  return images && !takesImages(model) ? [`${model} does not take image_url parts`] : [];
}

function toolFaults(messages) {
  const faults = [];
  let open = new Set();
  messages.forEach((message, index) => {
    if (message.role === "tool") {
      if (!open.delete(message.tool_call_id)) {
        faults.push(`messages[${index}] (tool) answers no open tool call: ${message.tool_call_id}`);
      }
      return;
    }
    for (const id of open) faults.push(`tool call ${id} is not answered before messages[${index}]`);
    open = new Set((message.tool_calls ?? []).map(({ id }) => id));
  });
  for (const id of open) faults.push(`tool call ${id} is not answered`);
  return faults;
}
