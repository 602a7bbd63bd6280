"use strict";

// The models of the Qwen Code login, as OpenCode's configuration names them. Costs are 0: the login is not billed.

function model(name, context, output, input) {
  return {
    name,
    attachment: input.includes("image"),
    reasoning: false,
    temperature: true,
    tool_call: true,
    cost: { input: 0, output: 0 },
    limit: { context, output },
    modalities: { input, output: ["text"] },
  };
}

const MODELS = {
  "coder-model": model("Qwen Coder", 1_048_576, 65_536, ["text"]),
  "vision-model": model("Qwen Vision", 131_072, 8_192, ["text", "image"]),
};

module.exports = { MODELS };
