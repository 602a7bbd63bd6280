const OAUTH_MODELS = ["coder-model", "vision-model"];
const PLAN_MODELS = [
  "qwen3.7-max",
  "qwen3.7-plus",
  "qwen3-coder-plus",
  "qwen3-coder-next",
  "qwen3-max-2026-01-23",
];
const CAPS = [
  [/^coder-model$/, 65_536],
  [/^vision-model$/, 8_192],
  [/^qwen3\.7-plus$/, 64_000],
  [/^qwen3-coder-(?:plus|next)$/, 65_536],
  [/^qwen3\.\d/, 65_536],
  [/^qwen/, 32_768],
];

export function modelsOf({ kind, models }) {
  return models ?? (kind === "api-key" ? PLAN_MODELS : OAUTH_MODELS);
}

/** The most output tokens a model gives: `Infinity` where there is no cap. */
export function capOf(model) {
  return CAPS.find(([pattern]) => pattern.test(model))?.[1] ?? Infinity;
}
