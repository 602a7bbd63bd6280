const FILE_NAME =
  /(?<![\w@:/\\.])((?:[A-Za-z]:)?(?:\.{0,2}[\\/])?(?:[\w.~-]+[\\/])*[\w-][\w.-]*\.(?:txt|md|json|toml|ya?ml|js|mjs|ts|rs|py|log|csv|html))\b/;

/**
 * The model's answer: a pure function of the request, so that tests can predict it.
 *
 * @param {object} body a chat request
 * @returns {{ text?: string, words?: number, calls?: { name: string, arguments: string }[] }}
 */
export function think(body) {
  const messages = Array.isArray(body?.messages) ? body.messages.filter((message) => message) : [];
  const results = trailingResults(messages);
  if (results.length > 0) {
    return { text: results.map((result) => `The tool answered: ${result.slice(0, 200)}`).join("\n") };
  }
  const user = messages.findLast(({ role }) => role === "user");
  const texts = textsOf(user?.content);
  const said = texts.join("\n");
  const tools = (Array.isArray(body?.tools) ? body.tools : []).map((tool) => tool?.function?.name);
  if (tools.length === 0 && isTitleRequest(messages)) return { text: titleOf(said) };
  const calls = directives(said).filter(({ name }) => tools.includes(name));
  if (calls.length > 0) return { calls };
  const words = /\bSAY (\d+)\b/.exec(said);
  if (words) return { words: Number(words[1]) };
  const file = tools.includes("read") && fileMentioned(texts);
  if (file) return { calls: [{ name: "read", arguments: JSON.stringify({ filePath: file }) }] };
  return { text: `You said: ${said}${imageNotes(user?.content)}` };
}

/** Yields the words of a `SAY n` answer, so that a long one needs no memory. */
export function* countedWords(count) {
  for (let number = 1; number <= count; number += 1)
    yield number === count ? `word${number}` : `word${number} `;
}

export function textsOf(content) {
  if (typeof content === "string") return [content];
  if (!Array.isArray(content)) return [];
  return content.filter((part) => typeof part?.text === "string").map((part) => part.text);
}

function trailingResults(messages) {
  const lastOther = messages.findLastIndex(({ role }) => role !== "tool");
  return messages.slice(lastOther + 1).map(({ content }) => textsOf(content).join("\n"));
}

function isTitleRequest(messages) {
  return messages.some(
    ({ role, content }) => role === "system" && /\btitle\b/i.test(textsOf(content).join("\n")),
  );
}

function titleOf(text) {
  const words = text.match(/[\p{L}\p{N}][\p{L}\p{N}'.-]*/gu) ?? [];
  return words.slice(0, 5).join(" ") || "New session";
}

/** Finds every `CALL name {…}`. */
function directives(text) {
  // A shell-like host quotes the prompt, and escapes its quotes.
  const plain = /CALL \S+ *\{\s*\\"/.test(text) ? text.replaceAll('\\"', '"') : text;
  return [...plain.matchAll(/\bCALL ([\w.:-]+)/g)].map((match) => ({
    name: match[1],
    arguments: objectAt(plain, match.index + match[0].length) ?? "{}",
  }));
}

function objectAt(text, from) {
  const start = from + /^\s*/.exec(text.slice(from))[0].length;
  if (text[start] !== "{") return undefined;
  let depth = 0;
  let quoted = false;
  for (let index = start; index < text.length; index += 1) {
    const char = text[index];
    if (quoted && char === "\\") index += 1;
    else if (char === '"') quoted = !quoted;
    else if (!quoted && char === "{") depth += 1;
    else if (!quoted && char === "}" && (depth -= 1) === 0) return text.slice(start, index + 1);
  }
  return undefined;
}

function fileMentioned(texts) {
  // Hosts add parts to a user's turn: reminders, and files that were read.
  const own = texts.filter((text) => !/^\s*(?:<|Called the )/.test(text) && text.length < 4000);
  return FILE_NAME.exec(own.join("\n"))?.[1];
}

function imageNotes(content) {
  if (!Array.isArray(content)) return "";
  return content
    .filter((part) => part?.type === "image_url")
    .map((part) => `\nImage: ${describe(part.image_url?.url ?? part.image_url)}`)
    .join("");
}

function describe(url) {
  const data = /^data:([^;,]*)((?:;[^;,]*)*),(.*)$/s.exec(String(url));
  if (!data) return `at ${url}`;
  const bytes = Buffer.from(decodeURIComponent(data[3]), data[2].includes(";base64") ? "base64" : "utf8");
  return `${data[1] || "text/plain"}, ${bytes.length} bytes`;
}
