// Loaded into the real qwen CLI before it starts: what it sends to chat.qwen.ai goes to the local server, and nothing
// goes anywhere else. The CLI has its OAuth server built in.

const QWEN = "https://chat.qwen.ai";
const { fetch } = globalThis;

globalThis.fetch = async (input, init) => {
  const url = String(input?.url ?? input);
  if (url.startsWith(`${QWEN}/`)) return fetch(process.env.SPEC_QWEN_SERVER + url.slice(QWEN.length), init);
  if (/^(?:data:|http:\/\/127\.0\.0\.1:)/.test(url)) return fetch(input, init);
  throw new TypeError("fetch failed: there is no network in this test");
};
