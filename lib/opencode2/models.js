"use strict";

// Models as OpenCode 2 has them.

const { LOGIN_MODELS } = require("../models");

const LARGE_CONTEXT = 200_000;

/**
 * Fresh objects on each call: OpenCode freezes what it is given.
 *
 * @param {string} providerID
 * @param {object[]} models as `QwenClient.hostModels` gives them
 */
function modelInfos(providerID, models) {
  return models.map(({ id, name, context, output, input, host = {} }) => ({
    id,
    modelID: id,
    providerID,
    name,
    capabilities: { tools: true, input: [...input], output: ["text"] },
    limit: { context, output },
    cost: costs(host.prices),
    variants: (host.levels ?? []).map(variantOf),
    // With the field, OpenCode sends it with every message of the model's, and an empty one where there was no thinking.
    compatibility: {
      maxTokensField: "max_tokens",
      ...(host.interleaved && { reasoningField: host.interleaved }),
    },
    status: "active",
    enabled: true,
    time: { released: Date.parse(host.released) || 0 },
  }));
}

/** What the accounts can be asked for. */
async function modelsOf(client) {
  return (await client.hostModels()) ?? LOGIN_MODELS;
}

function costs(prices) {
  const large = prices?.context_over_200k;
  const cost = [costOf(prices)];
  if (large) cost.push({ ...costOf(large), tier: { type: "context", size: LARGE_CONTEXT } });
  return cost;
}

/** Without prices nothing is billed by use. */
function costOf({ input = 0, output = 0, cache_read = 0, cache_write = 0 } = {}) {
  return { input, output, cache: { read: cache_read, write: cache_write } };
}

/** What is chosen with `-m provider/model#variant`. */
function variantOf({ name, enable, budget, effort }) {
  return {
    id: name,
    body: {
      ...(enable !== undefined && { enable_thinking: enable }),
      ...(budget !== undefined && { thinking_budget: budget }),
      ...(effort !== undefined && { reasoning_effort: effort }),
    },
  };
}

module.exports = { modelInfos, modelsOf };
