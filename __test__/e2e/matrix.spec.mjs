// Short tests in one version of each line of OpenCode 1 that versions.spec.mjs leaves out: the plugin is
// loaded once, lists its models, chats, and shows a final error once. They use `serve`: `run` of 1.14 and 1.15 prints no
// answer, with any provider.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { assertClean } from "./support/checks.mjs";
import { MATRIX, openHost, suite } from "./support/opencode.mjs";
import { Package } from "./support/package.mjs";

const textOf = ({ body }) => body.parts.filter(({ type }) => type === "text").map(({ text }) => text);

// Two versions at a time: OpenCode mostly waits.
describe("OpenCode's other versions", suite(MATRIX[0]), () => {
  let packed;
  before(() => {
    packed = new Package();
  });
  after(() => packed.remove());

  for (const version of MATRIX) {
    test(`${version} loads the plugin once, lists models, chats, shows a final error once`, async (t) => {
      // Each plugin function reports this invalid variable when it is called.
      const host = await openHost(t, { version, env: { QWEN_MODE: "maybe" } });
      host.configure({ plugin: [`file://${packed.install(host.sandbox.path("plugins/node_modules"))}`] });
      const service = await host.serve({ args: ["--print-logs"] });
      const { body: known } = await service.request("/config/providers");
      const provider = known.providers.find(({ id }) => id === "qwen-code");
      assert.deepEqual(
        ["coder-model", "vision-model"].filter((id) => id in provider.models),
        ["coder-model", "vision-model"],
      );
      const answered = await (await service.prompt("hello")).answer;
      assert.deepEqual(textOf(answered), ["You said: hello"], JSON.stringify(answered));
      assert.equal(host.server.seen("chat").at(-1).body.max_tokens, 65_536);

      host.server.script(
        "chat",
        Array.from({ length: 12 }, () => ({ do: "quota" })),
      );
      const before = host.server.seen("chat").length;
      const refused = await (await service.prompt("again")).answer;
      assert.match(JSON.stringify(refused.body), /used up|out of quota/i);
      // One full request, and one shortened one.
      assert.ok(host.server.seen("chat").length - before <= 2);
      assert.equal(service.output().match(/QWEN_MODE is neither/g)?.length, 1, service.output());
      assertClean(host.server);
    });
  }
});
