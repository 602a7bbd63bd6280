"use strict";

// Models as OpenCode 2 has them.

const { MODELS, planModels } = require("../models");

/**
 * Fresh objects on each call: OpenCode freezes what it is given.
 *
 * @param {string} providerID
 * @param {object[]} models as `client.models()` gives them
 */
function modelInfos(providerID, models) {
  return models.map(({ id, name, context, output, input, thinking, cost }) => ({
    id,
    modelID: id,
    providerID,
    name,
    capabilities: { tools: true, input: [...(input ?? ["text"])], output: ["text"] },
    limit: { context, output },
    cost: costs(cost),
    variants: variants(thinking),
    compatibility: { reasoningField: "reasoning_content", maxTokensField: "max_tokens" },
    status: "active",
    enabled: true,
    time: { released: 0 },
  }));
}

/** What the accounts can be asked for. */
async function modelsOf(client) {
  if (client.models) return client.models();
  const of = ([id, { name, limit, modalities, cost }]) => ({
    id,
    name,
    ...limit,
    input: modalities.input,
    cost,
  });
  return Object.entries({ ...MODELS, ...planModels(await client.planModels()) }).map(of);
}

/** An unknown price is none: OpenCode would show a wrong one as true. */
function costs(cost) {
  if (cost === undefined) return [];
  const { input, output, cacheRead = 0, cacheWrite = 0 } = cost;
  return [{ input, output, cache: { read: cacheRead, write: cacheWrite } }];
}

/** What is chosen with `-m provider/model#variant`. */
function variants({ toggle, efforts, mandatory } = {}) {
  const levels = (efforts ?? []).map((effort) => ({ id: effort, body: { reasoning_effort: effort } }));
  if (!toggle || mandatory) return levels;
  const on = levels.length > 0 ? levels : [{ id: "thinking", body: { enable_thinking: true } }];
  return [{ id: "none", body: { enable_thinking: false } }, ...on];
}

module.exports = { modelInfos, modelsOf };
