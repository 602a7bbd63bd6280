// Loaded into the real qwen CLI before it starts. Requests to chat.qwen.ai, which is built in, go to the local server;
// all others fail.

const QWEN = "https://chat.qwen.ai";
const { fetch } = globalThis;

globalThis.fetch = async (input, init) => {
  const url = String(input?.url ?? input);
  if (url.startsWith(`${QWEN}/`)) return fetch(process.env.SPEC_QWEN_SERVER + url.slice(QWEN.length), init);
  if (/^(?:data:|http:\/\/127\.0\.0\.1:)/.test(url)) return fetch(input, init);
  throw new TypeError("fetch failed: there is no network in this test");
};
