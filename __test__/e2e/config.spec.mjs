// The offered models, and the changes to them in the configuration of a directory.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { assertClean } from "./support/checks.mjs";
import { CHECKOUT, openHost, suite } from "./support/opencode.mjs";

const inputs = ({ capabilities }) =>
  Object.keys(capabilities.input).filter((kind) => capabilities.input[kind]);

describe("configuration", suite(), () => {
  test("each directory", async (t) => {
    const host = await openHost(t, { config: { plugin: [] } });
    const everywhere = await host.serve();
    const open = (name, config) => {
      host.sandbox.write(`${name}/opencode.json`, { plugin: [CHECKOUT], ...config });
      return everywhere.in(host.sandbox.path(name));
    };

    await t.test("lists the models with their limits and kinds of input", async () => {
      const service = await open("plain");
      const models = await service.models();
      assert.deepEqual(Object.keys(models).sort(), ["coder-model", "vision-model"]);
      const { "coder-model": coder, "vision-model": vision } = models;
      assert.deepEqual(coder.limit, { context: 1_048_576, output: 65_536 });
      assert.deepEqual(vision.limit, { context: 131_072, output: 8_192 });
      for (const model of [coder, vision]) {
        assert.deepEqual(inputs(model), ["text", "image"]);
        assert.equal(model.capabilities.toolcall, true);
        assert.equal(model.capabilities.reasoning, false);
        assert.deepEqual([model.cost.input, model.cost.output], [0, 0]);
      }
    });

    await t.test("keeps what the user has configured for the provider and the command", async () => {
      const command = { qwen: { template: "SAY 3", description: "mine" } };
      const service = await open("own", {
        command,
        provider: {
          "qwen-code": {
            name: "My Qwen",
            options: { headers: { "x-mine": "yes", authorization: "Bearer mine", "user-agent": "mine" } },
            models: {
              "coder-model": { name: "My coder", options: { max_tokens: 777 } },
              "vision-model": { limit: { context: 50_000, output: 4_000 } },
              "extra-model": { name: "Extra", limit: { context: 1_000, output: 500 } },
            },
          },
        },
      });
      const { body } = await service.request("/config/providers");
      const { name, models } = body.providers.find(({ id }) => id === "qwen-code");
      assert.equal(name, "My Qwen");
      assert.equal(models["coder-model"].name, "My coder");
      assert.equal(models["coder-model"].limit.context, 1_048_576);
      assert.deepEqual(models["vision-model"].limit, { context: 50_000, output: 4_000 });
      assert.equal(models["extra-model"].limit.output, 500);

      const { session } = await service.ask("hello");
      await service.ask("hello", { model: "vision-model" });
      const [coder, vision] = host.server.seen("chat");
      assert.deepEqual([coder.body.max_tokens, vision.body.max_tokens], [777, 4_000]);
      assert.deepEqual([coder.status, vision.status], [200, 200]);
      assert.equal(coder.headers["x-mine"], "yes");
      assert.match(coder.headers["user-agent"], /^opencode-qwen-cli-auth\//);
      await service.qwenCommand(session);
      assert.ok(
        JSON.stringify(host.server.seen("chat").at(-1).body.messages).includes(command.qwen.template),
      );
      assertClean(host.server);
    });

    await t.test("sends no token to a foreign host", async () => {
      host.server.reset();
      const options = { baseURL: "https://elsewhere.example/v1", apiKey: "mine" };
      const service = await open("foreign", { provider: { "qwen-code": { options } } });
      const { error } = await service.ask("hello");
      assert.match(error, /elsewhere\.example.*A Qwen token is sent to its own host alone/s);
      assert.deepEqual(host.server.requests, []);
    });

    await t.test("takes options of the plugin, and names a wrong one", async () => {
      host.server.set({ strict: false });
      const tuned = await open("tuned", { plugin: [[CHECKOUT, { qwenMode: false }]] });
      assert.equal((await tuned.ask("hello")).text, "You said: hello");
      assert.equal(host.server.seen("chat")[0].body.metadata, undefined);
      const wrong = await open("wrong", { plugin: [[CHECKOUT, { idleTimeoutMs: "soon" }]] });
      assert.match((await wrong.ask("hello")).error, /^idleTimeoutMs must be a whole number of milliseconds/);
    });
  });
});
