"use strict";

// Converts the core's models to the form of OpenCode 2.

const { LOGIN_MODELS } = require("../models");

const LARGE_CONTEXT = 200_000;

/**
 * Returns new objects on each call, since OpenCode freezes them.
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
    // If this field is set, OpenCode sends it with every message of the model, empty ones included.
    compatibility: {
      maxTokensField: "max_tokens",
      ...(host.interleaved && { reasoningField: host.interleaved }),
    },
    status: "active",
    enabled: true,
    time: { released: Date.parse(host.released) || 0 },
  }));
}

/** Resolves with the models of all accounts. */
async function modelsOf(client) {
  return (await client.hostModels()) ?? LOGIN_MODELS;
}

function costs(prices) {
  const large = prices?.context_over_200k;
  const cost = [costOf(prices)];
  if (large) cost.push({ ...costOf(large), tier: { type: "context", size: LARGE_CONTEXT } });
  return cost;
}

/** Returns zero costs for a model without prices, which isn't billed by use. */
function costOf({ input = 0, output = 0, cache_read = 0, cache_write = 0 } = {}) {
  return { input, output, cache: { read: cache_read, write: cache_write } };
}

/** Returns a variant, which `-m provider/model#variant` chooses. */
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
