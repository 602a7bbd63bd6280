// The offered models, and the user's changes to them.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { assertAnswer, assertClean, assertFailure } from "./support/checks.mjs";
import { CHECKOUT, openHost, suite } from "./support/opencode.mjs";

/** `opencode models --verbose` as an object. */
function readModels(text) {
  const parts = text.split(/^(qwen-code\/\S+)\n/m).slice(1);
  return Object.fromEntries(
    parts.flatMap((name, index) => (index % 2 === 0 ? [[name, JSON.parse(parts[index + 1])]] : [])),
  );
}

const inputs = ({ capabilities }) =>
  Object.keys(capabilities.input).filter((kind) => capabilities.input[kind]);

describe("configuration", suite(), () => {
  test("lists the models with their limits and kinds of input", async (t) => {
    const host = await openHost(t);
    const { stdout, code } = await host.run(["models", "qwen-code", "--verbose"]);
    assert.equal(code, 0);
    const models = readModels(stdout);
    assert.deepEqual(Object.keys(models).sort(), ["qwen-code/coder-model", "qwen-code/vision-model"]);
    const { "qwen-code/coder-model": coder, "qwen-code/vision-model": vision } = models;
    assert.deepEqual(coder.limit, { context: 1_048_576, output: 65_536 });
    assert.deepEqual(vision.limit, { context: 131_072, output: 8_192 });
    assert.deepEqual(
      [inputs(coder), inputs(vision)],
      [
        ["text", "image"],
        ["text", "image"],
      ],
    );
    for (const model of [coder, vision]) {
      assert.equal(model.capabilities.toolcall, true);
      assert.equal(model.capabilities.reasoning, false);
      assert.deepEqual([model.cost.input, model.cost.output], [0, 0]);
    }
  });

  test("keeps what the user has configured for the provider", async (t) => {
    const host = await openHost(t, {
      config: {
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
      },
    });
    const models = readModels((await host.run(["models", "qwen-code", "--verbose"])).stdout);
    assert.equal(models["qwen-code/coder-model"].name, "My coder");
    assert.equal(models["qwen-code/coder-model"].limit.context, 1_048_576);
    assert.deepEqual(models["qwen-code/vision-model"].limit, { context: 50_000, output: 4_000 });
    assert.equal(models["qwen-code/extra-model"].limit.output, 500);

    const service = await host.serve();
    const { body } = await service.request("/config/providers");
    assert.equal(body.providers.find(({ id }) => id === "qwen-code").name, "My Qwen");
    for (const model of ["coder-model", "vision-model"]) await (await service.prompt("hello", model)).answer;
    const [coder, vision] = host.server.seen("chat");
    assert.deepEqual([coder.body.max_tokens, vision.body.max_tokens], [777, 4_000]);
    assert.deepEqual([coder.status, vision.status], [200, 200]);
    assert.equal(coder.headers["x-mine"], "yes");
    assert.match(coder.headers["user-agent"], /^opencode-qwen-cli-auth\//);
    assertClean(host.server);
  });

  test("sends no token to a foreign host", async (t) => {
    const options = { baseURL: "https://elsewhere.example/v1", apiKey: "mine" };
    const host = await openHost(t, { config: { provider: { "qwen-code": { options } } } });
    const result = await host.chat("hello");
    assertFailure(result, /elsewhere\.example.*A Qwen token is sent to its own host alone/s);
    assert.deepEqual(host.server.requests, []);
  });

  test("takes options of the plugin, and names a wrong one", async (t) => {
    const host = await openHost(t, { plugin: [CHECKOUT, { qwenMode: false }], server: { strict: false } });
    assertAnswer(await host.chat("hello"), "You said: hello");
    assert.equal(host.server.seen("chat")[0].body.metadata, undefined);

    host.configure({ plugin: [[CHECKOUT, { idleTimeoutMs: "soon" }]] });
    assertFailure(await host.chat("hello"), /^idleTimeoutMs must be a whole number of milliseconds/);
  });
});
