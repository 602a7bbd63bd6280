// Each version of OpenCode, and each way to name the plugin.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { assertClean, assertPlaceholder } from "./support/checks.mjs";
import { CHECKOUT, CREDENTIALS, LOGIN_LABEL, OTHERS, openHost, suite } from "./support/opencode.mjs";
import { NAME, Package, VERSION } from "./support/package.mjs";

/** The plugin reports this invalid variable each time that OpenCode calls one of its functions. */
const env = { QWEN_MODE: "maybe" };
const loads = (service) => service.output().match(/QWEN_MODE is neither/g)?.length;

let packed;
before(() => {
  packed = new Package();
});
after(() => packed.remove());

const installed = ({ sandbox }) => pathToFileURL(packed.install(sandbox.path("plugins/node_modules"))).href;

describe("the current OpenCode", suite(), () => {
  test("loads the plugin once by each of its names, and chats", async (t) => {
    const host = await openHost(t, { config: { plugin: [] }, env });
    packed.install(host.sandbox.path(".cache/opencode/packages", `${NAME}@latest`, "node_modules"));
    const everywhere = await host.serve({ args: ["--print-logs"] });
    const server = new URL("server.js", CHECKOUT).href;
    const configurations = {
      path: { plugin: [CHECKOUT] },
      directory: { plugin: [installed(host)] },
      "npm name": { plugin: [NAME] },
      // It contains an early form of OpenCode 2, which reads both names and calls `setup`.
      "both names of OpenCode 1 and 2": { plugin: [server], plugins: [server] },
    };
    for (const [index, [name, configuration]] of Object.entries(configurations).entries()) {
      await t.test(name, async () => {
        host.sandbox.write(`work-${index}/opencode.json`, configuration);
        const service = await everywhere.in(host.sandbox.path(`work-${index}`));
        assert.equal((await service.ask("hello")).text, "You said: hello");
        assert.equal(loads(service), index + 1, service.output());
      });
    }
    assertClean(host.server);
  });
});

/** The old way in which OpenCode installs a package from npm. */
async function cached(host) {
  // The first start of a version empties its cache.
  await host.run(["--version"]);
  packed.install(host.sandbox.path(".cache/opencode/node_modules"));
  host.sandbox.write(".cache/opencode/package.json", { dependencies: { [NAME]: VERSION } });
  return `${NAME}@${VERSION}`;
}

describe("other versions of OpenCode", suite(OTHERS[0]), () => {
  for (const version of OTHERS) {
    test(`${version} loads the plugin once, logs in, chats, and shows a final error once`, async (t) => {
      // `run` of 1.14 and 1.15 prints no answer, with any provider.
      const host = await openHost(t, { version, env });
      const plugin = version === "1.3.2" ? await cached(host) : installed(host);
      host.configure({ plugin: [plugin] });
      const key = host.addKey();
      const service = await host.serve({ args: ["--print-logs"] });
      const models = Object.keys(await service.models());
      for (const model of ["coder-model", "vision-model", "qwen3-coder-plus"])
        assert.ok(models.includes(model), models.join());
      // Some versions ask for a title, although there is one.
      const chats = () => host.server.seen("chat").filter(({ body }) => body.tools);
      const ask = async (model) => {
        const { answer } = await service.prompt("hello", { model });
        const texts = (await answer).body.parts.filter(({ type }) => type === "text");
        assert.deepEqual(
          texts.map(({ text }) => text),
          ["You said: hello"],
        );
        return chats().at(-1);
      };

      const { body: methods } = await service.request("/provider/auth");
      const [{ prompts, ...first }] = methods["qwen-code"];
      assert.deepEqual([first, prompts ?? []], [{ type: "oauth", label: LOGIN_LABEL }, []]);
      const { body } = await service.oauth("authorize");
      assert.equal(body.method, "auto");
      assert.match(body.url, /\/authorize\?user_code=[A-Z-]+&client=qwen-code$/);
      assert.equal((await service.oauth("callback")).body, true);
      assertPlaceholder(host);
      assert.equal(host.sandbox.mode(CREDENTIALS), 0o600);

      const { status, account, headers, body: sent } = await ask("coder-model");
      assert.deepEqual([status, account], [200, "alice"]);
      assert.equal(headers.authorization, `Bearer ${host.sandbox.readJson(CREDENTIALS).access_token}`);
      assert.equal(sent.max_tokens, 65_536);
      assert.deepEqual(sent.messages[0].content.at(-1).cache_control, { type: "ephemeral" });
      // 1.0 lets no plugin set headers.
      if (version !== "1.0.152") assert.match(headers["x-session-id"], /^ses_/);
      assert.equal((await ask("qwen3-coder-plus")).headers.authorization, `Bearer ${key}`);
      assertClean(host.server);
      assert.equal(loads(service), 1, service.output());

      const { length } = chats();
      host.server.script("chat", [{ do: "quota", account: "planned", times: Infinity }]);
      const { answer, session } = await service.prompt("again", { model: "qwen3-coder-plus" });
      assert.match(JSON.stringify((await answer).body), /used up/);
      assert.equal(chats().length, length + 1);

      // 1.0 hands no command to plugins.
      if (version === "1.0.152") return;
      assert.notEqual((await service.qwenCommand(session)).status, 200);
      assert.equal(chats().length, length + 1);
      // These send toasts to `/global/event` alone.
      if (!["1.14.48", "1.15.13"].includes(version)) await service.waitForToast(/^\* Account 2: ready\n/m);
    });
  }
});
