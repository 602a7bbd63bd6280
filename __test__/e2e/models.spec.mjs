// Models in OpenCode: the models offered for a key, compared with those of OpenCode's own provider, and their settings
// on the wire.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { PNG } from "../support/png.mjs";
import { openHost, suite } from "./support/opencode.mjs";

const TOKEN_PLAN = "https://token-plan.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1";

/** OpenCode's own provider also lists models that make images and videos. */
const chats = ({ id }) => !/image|happyhorse/.test(id);

/** The fields of a body that control thinking. */
const thinking = ({ enable_thinking, thinking_budget, reasoning_effort, preserve_thinking }) => [
  enable_thinking,
  thinking_budget,
  reasoning_effort,
  preserve_thinking,
];

/** Each kind of thinking, and the fields of its variants: `enable_thinking`, `thinking_budget`, `reasoning_effort`. */
const KINDS = {
  "a toggle and budgets": {
    model: "qwen3.7-plus",
    plain: [true],
    none: [false],
    low: [true, 4_096],
    medium: [true, 16_384],
    high: [true, 32_768],
    max: [true, 262_144],
  },
  "a toggle and efforts of its own": {
    model: "qwen3.8-flash",
    plain: [],
    none: [false],
    low: [true, undefined, "low"],
    medium: [true, undefined, "medium"],
    xhigh: [true, undefined, "xhigh"],
  },
  "efforts beside those of the host": {
    model: "deepseek-v4-pro",
    plain: [],
    none: [false],
    low: [true, undefined, "low"],
    high: [true, undefined, "high"],
    max: [true, undefined, "max"],
  },
  "efforts without a toggle": {
    model: "glm-5.3",
    plain: [],
    low: [undefined, undefined, "low"],
    high: [undefined, undefined, "high"],
    max: [undefined, undefined, "max"],
  },
  "always, with efforts": {
    model: "qwen3.8-max",
    plain: [],
    low: [true, undefined, "low"],
    medium: [true, undefined, "medium"],
    xhigh: [true, undefined, "xhigh"],
  },
  "always, with budgets": {
    model: "qwen3-next-80b-a3b-thinking",
    plain: [],
    low: [undefined, 4_096],
    medium: [undefined, 16_384],
    high: [undefined, 32_768],
    max: [undefined, 38_912],
  },
  "always, with a toggle that the server ignores": {
    model: "kimi-k2.7-code",
    plain: [true],
    low: [true, 4_096],
    medium: [true, 16_384],
    high: [true, 32_768],
    max: [true, 38_912],
  },
};

describe("models", suite(), () => {
  test("models are at least as good as in OpenCode's own provider for the same key", async (t) => {
    const env = { ALIBABA_TOKEN_PLAN_API_KEY: "sk-sp-of-a-plan" };
    const host = await openHost(t, { login: false, hasCatalog: true, env });
    host.addKey({ key: "sk-sp-of-a-plan", plan: "token-plan", region: "intl", baseUrl: TOKEN_PLAN });
    const service = await host.serve();
    const ours = await service.models();
    const theirs = Object.values(await service.models("alibaba-token-plan")).filter(chats);
    assert.ok(theirs.length >= 20, `${theirs.length} models`);
    for (const their of theirs) {
      const our = ours[their.id];
      assert.ok(our, `${their.id} is missing`);
      assert.deepEqual(
        [our.name, our.limit.context, our.limit.output, our.cost, our.release_date],
        [their.name, their.limit.context, their.limit.output, their.cost, their.release_date],
      );
      const { interleaved, attachment, input, ...capabilities } = their.capabilities;
      assert.deepEqual({ ...our.capabilities, ...capabilities }, our.capabilities, their.id);
      assert.ok(!attachment || our.capabilities.attachment, their.id);
      for (const kind of Object.keys(input))
        assert.ok(!input[kind] || our.capabilities.input[kind], their.id);
      if (interleaved) assert.deepEqual(our.capabilities.interleaved, interleaved, their.id);
      for (const [variant, { reasoningEffort }] of Object.entries(their.variants ?? {})) {
        assert.equal(our.variants[variant]?.reasoningEffort, reasoningEffort, `${their.id} ${variant}`);
      }
    }
    assert.deepEqual(Object.keys(ours["qwen3.7-plus"].variants).sort(), [
      "high",
      "low",
      "max",
      "medium",
      "none",
    ]);
    assert.deepEqual(Object.keys(ours["deepseek-v4-pro"].variants).sort(), ["high", "max", "none"]);
    assert.equal(ours["coder-model"], undefined);
    assert.equal(ours["wan2.7-image"], undefined);
  });

  test("images and every variant of every kind of thinking reach the server", async (t) => {
    const host = await openHost(t, { login: false, server: { strict: false } });
    const models = [...Object.values(KINDS).map(({ model }) => model), "glm-5"];
    host.addKey({ plan: "dashscope", region: "cn", models });
    const service = await host.serve();
    const listed = await service.models();
    const sent = async (model, fields) => {
      assert.equal((await service.ask("think", { model, ...fields })).error, undefined);
      return host.server.seen("chat").at(-1).body;
    };
    const parts = [
      { type: "file", mime: "image/png", filename: "a.png", url: `data:image/png;base64,${PNG}` },
    ];
    const look = await sent("qwen3.7-plus", { parts });
    assert.equal(look.messages.at(-1).content.filter(({ type }) => type === "image_url").length, 1);
    assert.deepEqual([look.vl_high_resolution_images, look.max_tokens], [true, 64_000]);
    assert.equal((await sent("glm-5")).metadata, undefined);
    for (const [kind, { model, plain, ...variants }] of Object.entries(KINDS)) {
      assert.deepEqual(Object.keys(listed[model].variants).sort(), Object.keys(variants).sort(), kind);
      for (const [variant, fields] of [[undefined, plain], ...Object.entries(variants)]) {
        const body = await sent(model, { variant });
        const expected = [0, 1, 2].map((at) => fields[at]);
        assert.deepEqual([body.model, ...thinking(body)], [model, ...expected, true], `${kind}: ${variant}`);
      }
    }
  });
});
