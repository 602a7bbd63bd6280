// In each version of OpenCode, and with each way to name the plugin: it is registered once, and chats.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { assertClean, assertPlaceholder, exchanges } from "./support/checks.mjs";
import { CHECKOUT, CREDENTIALS, CURRENT, LOGIN_LABEL, OLDER, openHost, suite } from "./support/opencode.mjs";
import { NAME, Package, VERSION } from "./support/package.mjs";

let packed;
before(() => {
  packed = new Package();
});
after(() => packed.remove());

/** Forms of the plugin's entry in a configuration, and the files that they need. */
const FORMS = {
  path: () => CHECKOUT,
  directory: ({ sandbox }) => pathToFileURL(packed.install(sandbox.path("plugins/node_modules"))).href,
  "npm name": async (host) => {
    const cache = ".cache/opencode";
    if (host.version === CURRENT) {
      packed.install(host.sandbox.path(cache, "packages", `${NAME}@latest`, "node_modules"));
      return NAME;
    }
    // The first start of a version empties its cache.
    await host.run(["--version"]);
    packed.install(host.sandbox.path(cache, "node_modules"));
    host.sandbox.write(`${cache}/package.json`, { dependencies: { [NAME]: VERSION } });
    return `${NAME}@${VERSION}`;
  },
};

for (const version of [CURRENT, ...OLDER]) {
  describe(`OpenCode ${version}`, suite(version), () => {
    for (const [form, install] of Object.entries(FORMS)) {
      test(`registers the plugin once by ${form}, and chats`, async (t) => {
        // Each plugin function reports this invalid variable when it is called.
        const host = await openHost(t, { version, env: { QWEN_MODE: "maybe" } });
        host.configure({ plugin: [await install(host)] });
        const result = await host.chat("hello", { args: ["--print-logs"] });
        assert.equal(result.stdout, "You said: hello\n", result.stderr);
        assert.equal(result.code, 0);
        assert.equal(result.stderr.match(/QWEN_MODE is neither/g)?.length, 1, result.stderr);
        const request = host.server.seen("chat").find(({ body }) => body.tools);
        assert.equal(request.body.max_tokens, 65_536);
        assert.deepEqual(request.body.messages[0].content.at(-1).cache_control, { type: "ephemeral" });
        // 1.0 lets no plugin set headers.
        if (version !== "1.0.152") assert.match(request.headers["x-session-id"], /^ses_/);
        assertClean(host.server);
      });
    }

    // login.spec.mjs tests the current version.
    if (version === CURRENT) {
      // It contains an early form of OpenCode 2, which reads both names and calls `setup`.
      test("registers the plugin once by both names of OpenCode 1 and 2", async (t) => {
        const host = await openHost(t, { version, env: { QWEN_MODE: "maybe" } });
        const file = new URL("server.js", CHECKOUT).href;
        host.configure({ plugin: [file], plugins: [file] });
        const result = await host.chat("hello", { args: ["--print-logs"] });
        assert.equal(result.stdout, "You said: hello\n", result.stderr);
        assert.equal(result.stderr.match(/QWEN_MODE is neither/g)?.length, 1, result.stderr);
        assertClean(host.server);
      });
      return;
    }
    test("logs in, and keeps the token out of OpenCode's own file", async (t) => {
      const host = await openHost(t, { version, login: false });
      const service = await host.serve();
      const { body: methods } = await service.request("/provider/auth");
      const [{ prompts, ...first }] = methods["qwen-code"];
      assert.deepEqual([first, prompts ?? []], [{ type: "oauth", label: LOGIN_LABEL }, []]);
      const { body } = await service.request("/provider/qwen-code/oauth/authorize", { method: 0 });
      assert.equal(body.method, "auto");
      assert.match(body.url, /\/authorize\?user_code=[A-Z-]+&client=qwen-code$/);
      const { body: done } = await service.request("/provider/qwen-code/oauth/callback", { method: 0 });
      assert.equal(done, true);
      assertPlaceholder(host);
      assert.equal(host.sandbox.mode(CREDENTIALS), 0o600);
      const result = await host.chat("hello");
      assert.equal(result.stdout, "You said: hello\n", result.stderr);
      assert.ok(exchanges(host.server, "chat").every((exchange) => exchange === "200 alice"));
      assertClean(host.server);
    });
  });
}
