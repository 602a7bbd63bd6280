"use strict";

// Models as OpenCode's configuration names them. Costs of the login's models are 0: it is not billed. The plans' have none:
// prices change, and OpenCode would show a wrong one as true.

function model(name, context, output, input, cost) {
  return {
    name,
    attachment: input.includes("image"),
    reasoning: false,
    temperature: true,
    tool_call: true,
    ...(cost && { cost }),
    limit: { context, output },
    modalities: { input, output: ["text"] },
  };
}

const FREE = { input: 0, output: 0 };

const MODELS = {
  "coder-model": model("Qwen Coder", 1_048_576, 65_536, ["text"], FREE),
  "vision-model": model("Qwen Vision", 131_072, 8_192, ["text", "image"], FREE),
};

/** @param {{ id: string, name: string, context: number, output: number }[]} models as the core knows them */
function planModels(models) {
  return Object.fromEntries(
    models.map(({ id, name, context, output }) => [id, model(name, context, output, ["text"])]),
  );
}

module.exports = { MODELS, planModels };
