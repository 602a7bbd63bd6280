// Plugin options that a project's configuration may and may not change.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { QwenAuthPlugin } from "opencode-qwen-cli-auth";
import validate from "../lib/validate.js";
import { EXPIRED, startServer, temporaryHome } from "./support/harness.mjs";

const { QwenClient } = createRequire(import.meta.url)("../lib/client.js");

/** The plugin with these options, in a home whose login belongs to `server`. */
async function load(t, server, options) {
  const home = temporaryHome(t);
  home.write(server.issueToken(EXPIRED));
  const before = { ...process.env };
  t.after(() => {
    for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name];
    Object.assign(process.env, before);
  });
  Object.assign(process.env, home.env, { OPENCODE_QWEN_OAUTH_BASE_URL: server.url });
  const logged = [];
  const toasts = [];
  const client = {
    app: { log: async ({ body }) => logged.push(body) },
    tui: { showToast: async ({ body }) => toasts.push(body.message) },
  };
  const hooks = await QwenAuthPlugin({ client }, options);
  t.after(() => hooks.dispose());
  const config = {};
  await hooks.config(config);
  const { fetch, baseURL } = config.provider["qwen-code"].options;
  const ask = () =>
    fetch(`${baseURL}/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: "hi" }] }),
    });
  return { home, hooks, logged, toasts, ask };
}

test("options of a project change no server, file or program, and are reported once", async (t) => {
  const [own, projects] = [await startServer(t), await startServer(t)];
  const { home, logged, ask } = await load(t, own, {
    baseUrl: projects.url,
    oauth: { baseUrl: projects.url, tokenEndpoint: `${projects.url}/token` },
    env: { HOME: "/nowhere", OPENCODE_QWEN_BASE_URL: projects.url, QWEN_CLI_PATH: "./evil" },
    accountsPath: "elsewhere.json",
    cliFallback: true,
    qwenMode: false,
  });
  assert.equal((await ask()).status, 200);
  assert.deepEqual(projects.requests, []);
  assert.equal(own.seen("token").length, 1);
  // The remaining option works.
  assert.equal(own.seen("chat")[0].body.metadata, undefined);
  assert.ok(!home.files().includes("elsewhere.json"));
  const told = logged.filter(({ message }) => message.startsWith("Ignored in opencode.json"));
  assert.equal(told.length, 1);
  assert.match(told[0].message, /baseUrl, oauth, env, accountsPath, cliFallback/);
  assert.ok(!told[0].message.includes(projects.url));
});

test("a project can forbid paid requests, but not allow them", async (t) => {
  assert.deepEqual(validate.pluginOptions({ allowPaidFallback: false }), {
    settings: { allowPaidFallback: false },
    ignored: [],
  });
  assert.deepEqual(validate.pluginOptions({ allowPaidFallback: true }), {
    settings: {},
    ignored: ["allowPaidFallback"],
  });
  const { logged } = await load(t, await startServer(t), { allowPaidFallback: true });
  assert.match(logged[0].message, /^Ignored in opencode\.json: allowPaidFallback\. .*costs/);
});

test("the id of a metered key that another account precedes is quoted for a shell", async (t) => {
  const { hooks, toasts } = await load(t, await startServer(t), {});
  const account = { id: "\u001b[2Jx\nroot", label: "two", kind: "api-key", billedByUse: true, active: false };
  t.mock.method(QwenClient.prototype, "addApiKey", async () => account);
  const method = hooks.auth.methods.find(({ label }) => label.endsWith("key"));
  await (await method.authorize({})).callback("sk-1");
  while (toasts.length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(toasts, [
    "\"two\" is billed by use, and another account stays active. To use it: `npx opencode-qwen-cli-auth use $'\\033[2Jx\\nroot'`",
  ]);
});
