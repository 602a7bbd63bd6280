"use strict";

// Converts the core's models to the form of OpenCode's configuration.

const FREE = { input: 0, output: 0 };
/** Thinking levels that OpenCode adds to these models itself, even if the models don't have them. */
const HOST_LEVELS = { part: "deepseek-v4", names: ["low", "medium", "high", "max"] };

/** The models of a login, for a package without its addon. */
const LOGIN_MODELS = [
  { id: "coder-model", name: "Qwen Coder", context: 1_048_576, output: 65_536, input: ["text", "image"] },
  { id: "vision-model", name: "Qwen Vision", context: 131_072, output: 8_192, input: ["text", "image"] },
];

/** @param {object[]} models as `QwenClient.hostModels` gives them */
function hostModels(models) {
  return Object.fromEntries(models.map((model) => [model.id, hostModel(model)]));
}

/** @param {Record<string, any>} model */
function hostModel({ id, name, context, output, input, host = {} }) {
  const { reasoning = false, interleaved, temperature = true, released, prices = FREE, levels = [] } = host;
  const variants = variantsOf(id, levels);
  return {
    name,
    attachment: input.includes("image") || input.includes("pdf"),
    reasoning,
    temperature,
    tool_call: true,
    ...(released && { release_date: released }),
    ...(interleaved && { interleaved: { field: interleaved } }),
    cost: prices,
    limit: { context, output },
    modalities: { input, output: ["text"] },
    ...(Object.keys(variants).length > 0 && { variants }),
  };
}

/** OpenCode copies unknown option names into the body, but renames `reasoningEffort`. */
function variantsOf(id, levels) {
  const variants = {};
  for (const { name, enable, budget, effort } of levels) {
    variants[name] = {
      ...(enable !== undefined && { enable_thinking: enable }),
      ...(budget !== undefined && { thinking_budget: budget }),
      ...(effort !== undefined && { reasoningEffort: effort }),
    };
  }
  if (id.toLowerCase().includes(HOST_LEVELS.part)) {
    for (const name of HOST_LEVELS.names) variants[name] ??= { disabled: true };
  }
  return variants;
}

module.exports = { LOGIN_MODELS, hostModels };
