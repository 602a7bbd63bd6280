// Follows the steps of README.md and docs/accounts.md for users of another plugin.
import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { runProgram } from "../support/command-line.mjs";
import { OTHER_PLUGINS } from "../support/other-plugins.mjs";
import { startPlaces } from "../support/places.mjs";
import { assertAnswer, assertClean, exchanges } from "./support/checks.mjs";
import { AUTH, CHECKOUT, CREDENTIALS, Host, openHost, root, suite } from "./support/opencode.mjs";

const NAME = "opencode-qwen-cli-auth";
const readme = ["README.md", "docs/accounts.md"]
  .map((path) => readFileSync(join(root, path), "utf8"))
  .join("\n");

/** Runs a command that the README must contain. */
function command(host, args, options) {
  const text = `npx ${NAME} ${args.join(" ")}`;
  assert.ok(readme.includes(text), `the README does not say: ${text}`);
  // The shell expands this part.
  const expanded = args.map((arg) => arg.replace(/^~/, host.sandbox.home));
  return runProgram({ env: host.env, cwd: host.work, secrets: host.server.issued, ...options }, expanded);
}

async function doctor(host) {
  assert.ok(readme.includes(`npx ${NAME} doctor`));
  const { stdout } = await runProgram({ env: host.env, cwd: host.work }, ["doctor", "--json"]);
  return JSON.parse(stdout).filter(({ id, state }) => id === "opencode" && state !== "ok");
}

/** The other plugins' places for a login, and their names in lists. */
const PLUGINS = {
  "opencode-qwen-auth": {
    file: ".config/opencode/qwen-auth-accounts.json",
    config: { provider: { qwen: { npm: "@ai-sdk/openai" } }, model: "qwen/qwen3-coder-plus" },
    imports: true,
  },
  "opencode-qwen-oauth": {
    file: CREDENTIALS,
    config: { model: "qwen/coder-model" },
    imports: true,
  },
  "opencode-qwencode-auth": {
    file: CREDENTIALS,
    config: { model: "qwen-code/coder-model" },
  },
  "OpenCode alone": {
    file: AUTH,
    config: {},
    contents: (token) => ({
      qwen: {
        type: "oauth",
        access: token.access_token,
        refresh: token.refresh_token,
        expires: token.expiry_date,
        resourceUrl: token.resource_url,
      },
    }),
    imports: true,
  },
};

describe("migration from another plugin", suite(), () => {
  test("three steps with a key", async (t) => {
    const { server, env } = await startPlaces(t);
    const { HTTPS_PROXY, NODE_EXTRA_CA_CERTS } = env;
    const host = new Host({ server, login: false, env: { HTTPS_PROXY, NODE_EXTRA_CA_CERTS } });
    t.after(() => host.close());
    host.configure({ plugin: ["opencode-qwencode-auth"], model: "qwen-code/coder-model" });
    const [finding] = await doctor(host);
    assert.ok(finding, "the other plugin was not found");
    // Step 1. The package's name would be fetched from the network, so the checkout replaces it.
    assert.ok(readme.includes(`{ "plugin": ["${NAME}"] }`));
    host.configure({ plugin: [CHECKOUT] });
    // Step 2.
    const key = server.addKey({ plan: "token-plan", region: "intl" });
    const added = await command(host, ["add-key"], { input: `${key}\n` });
    assert.equal(added.code, 0, added.stderr);
    // Step 3.
    assert.ok(readme.includes('opencode run -m qwen-code/qwen3.7-plus "Hello"'));
    assertAnswer(await host.chat("Hello", { model: "qwen3.7-plus" }), "You said: Hello");
    assert.deepEqual(server.seen("chat").at(-1).place, { plan: "token-plan", region: "intl" });
    assert.deepEqual(await doctor(host), []);
    assertClean(server);
  });

  test("the logins of other plugins", async (t) => {
    const host = await openHost(t, { login: false });
    const service = await host.serve();
    for (const [plugin, { file, config, contents = OTHER_PLUGINS[plugin], imports }] of Object.entries(
      PLUGINS,
    )) {
      await t.test(plugin, async () => {
        rmSync(host.sandbox.path(".qwen"), { recursive: true, force: true });
        const isPlugin = plugin.startsWith("opencode-");
        host.configure({ plugin: [CHECKOUT, ...(isPlugin ? [plugin] : [])], ...config });
        const written = contents(host.server.issueToken({ account: plugin }));
        host.sandbox.write(file, written);
        const found = await doctor(host);
        assert.equal(
          found.some(({ message }) => message.includes(plugin)),
          isPlugin,
          JSON.stringify(found),
        );
        host.configure({ plugin: [CHECKOUT] });
        if (imports) {
          const { code, stderr } = await command(host, ["import", `~/${file}`]);
          assert.equal(code, 0, stderr);
          assert.deepEqual(host.sandbox.readJson(file), written);
        }
        assert.equal((await service.ask("hello")).text, "You said: hello");
        assert.equal(exchanges(host.server, "chat").at(-1), `200 ${plugin}`);
        assert.deepEqual(await doctor(host), []);
        assertClean(host.server);
      });
    }
  });
});
