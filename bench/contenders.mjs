// The contenders, loaded as OpenCode loads them: by plugin function and loader.
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { targetDirectory } from "../scripts/cargo.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(import.meta.url);
const peer = (path) => join(here, "node_modules", path);
const own = join(dirname(here), "index.js");

/**
 * `file` is the file that OpenCode imports. `requests` names the sender of the requests: a plugin without its own
 * `fetch` only gives a token to OpenCode, which uses the runtime's fetch, so only its start is measured. A floor is
 * only imported, since nothing can be faster. A `program` runs by itself and takes only the measures in `only`.
 */
export const CONTENDERS = {
  empty: {
    title: "a file that exports nothing but a function",
    file: join(here, "empty.cjs"),
    isFloor: true,
  },
  fetch: { title: "the runtime's fetch", requests: "own" },
  "js-edit": { title: "fetch, body edited in JS", requests: "own", onlyForEditing: true },
  reqwest: {
    title: "reqwest alone, in Rust",
    requests: "own",
    program: join(targetDirectory, "release/examples/bare_reqwest"),
    only: ["requests", "events"],
  },
  client: { title: "this package", file: own, requests: "own" },
  plugin: { title: "this package, in OpenCode", file: own, requests: "own" },
  original: {
    title: "opencode-qwen-cli-auth 1.0.2 (the original)",
    file: peer("opencode-qwen-cli-auth-original/dist/index.js"),
    requests: "the runtime's: it has no fetch of its own",
  },
  "opencode-qwen-auth": {
    title: "opencode-qwen-auth",
    file: peer("opencode-qwen-auth/dist/index.js"),
    requests: "own",
    editsPath: "/responses",
    limits: {
      node: "can't be loaded: it imports its files without their extension, which Node does not take",
      parallel:
        "writes its store under a lock after every request, and rejects most parallel requests with ELOCKED",
    },
  },
  "opencode-qwencode-auth": {
    title: "opencode-qwencode-auth",
    file: peer("opencode-qwencode-auth/index.ts"),
    requests: "the runtime's: it has no fetch of its own",
    limits: { node: "can't be loaded: it is published as TypeScript" },
  },
  "opencode-qwen-oauth": {
    title: "opencode-qwen-oauth",
    file: peer("opencode-qwen-oauth/dist/index.js"),
    requests: "own",
    limits: { slow: "waits 0.5 to 2.5 s before each request, on purpose" },
  },
};

/** Contenders of the gateway. */
export const GATEWAY_CONTENDERS = {
  direct: { title: "no server in between" },
  gateway: { title: "this package's gateway" },
  "node-proxy": { title: "a plain proxy on Node" },
  splice: { title: "a native splice that reads no HTTP" },
};

/** Returns the name of a contender in the tables. */
export const titleOf = (name) => (CONTENDERS[name] ?? GATEWAY_CONTENDERS[name]).title;

/** Returns the reason why a contender can't run here, if there is one. */
export function obstacle(name, runtime) {
  const { file, limits, program } = CONTENDERS[name];
  if (program !== undefined && !existsSync(program)) return "is not built: the full form builds it";
  if (file !== undefined && !existsSync(file)) return "is not installed: `npm ci --prefix bench`";
  return runtime === "node" ? limits?.node : undefined;
}

/** The part of OpenCode's client that plugins call at their start. */
const host = {
  app: { log: async () => {} },
  tui: { showToast: async () => {} },
  auth: { set: async () => {} },
};

/**
 * Imports a plugin and starts it as OpenCode does: plugin function, config hook, loader.
 *
 * @returns {Promise<{fetch?: Function, apiKey?: string, baseURL?: string}>}
 */
export async function startPlugin(name, expires) {
  const module = await import(pathToFileURL(CONTENDERS[name].file).href);
  const plugin = module.default?.default ?? module.default;
  const directory = process.env.HOME;
  const hooks = await plugin(
    { client: host, directory, worktree: directory, project: { name: "bench" } },
    {},
  );
  await hooks.config?.({});
  const auth = { type: "oauth", access: "bench-access-0", refresh: "bench-refresh-0", expires };
  if (name === "plugin" || name === "client") {
    auth.access = auth.refresh = "opencode-qwen-cli-auth:acct_0";
  }
  return hooks.auth.loader(async () => auth, { models: {} });
}

/**
 * Returns a contender's `fetch` and the base URL that OpenCode would use.
 *
 * @param {string} origin of the server
 * @returns {Promise<{fetch: Function, base: string}>}
 */
export async function open(name, origin, expires) {
  const base = `${origin}/v1`;
  if (name === "fetch") return { fetch: sendWith(globalThis.fetch), base };
  if (name === "js-edit") return { fetch: editInJs, base };
  if (name === "client") {
    const { baseUrl, fetch } = require(join(dirname(here), "lib/api.js")).createClient();
    return { fetch, base: baseUrl };
  }
  // Its OAuth server is a constant, so its requests are redirected here.
  if (name === "opencode-qwen-oauth") redirectOAuth(origin);
  const { fetch, apiKey, baseURL } = await startPlugin(name, expires);
  return { fetch: fetch ?? sendWith(globalThis.fetch, apiKey), base: name === "plugin" ? baseURL : base };
}

function sendWith(send, token = "bench") {
  return (url, init) =>
    send(url, { ...init, headers: { ...init?.headers, authorization: `Bearer ${token}` } });
}

function redirectOAuth(origin) {
  const send = globalThis.fetch;
  globalThis.fetch = (input, init) =>
    send(typeof input === "string" ? input.replace("https://chat.qwen.ai", origin) : input, init);
}

/** The same edits in plain JavaScript, for comparison, because few peers edit requests. */
function editInJs(url, init) {
  const body = JSON.parse(init.body);
  const mark = { type: "ephemeral" };
  const asParts = (content) => (typeof content === "string" ? [{ type: "text", text: content }] : content);
  for (const message of [body.messages[0], body.messages.at(-1)]) {
    message.content = asParts(message.content);
    Object.assign(message.content.at(-1), { cache_control: mark });
  }
  body.metadata = { sessionId: "bench", promptId: "bench" };
  return sendWith(globalThis.fetch)(url, { ...init, body: JSON.stringify(body) });
}
