import { readFileSync } from "node:fs";

const catalog = JSON.parse(readFileSync(new URL("../../../catalog/catalog.json", import.meta.url), "utf8"));
const { lists } = catalog;
/** Models in the server's list that don't chat. */
const NOT_CHAT = ["qwen-image-2.0", "wan2.7-image", "qwen3-asr-flash", "text-embedding-v4"];
/** Output caps of models that no list has. */
const CAPS = [
  [/^qwen3\.\d/, 65_536],
  [/^qwen/, 32_768],
];

function listOf({ kind, plan, region }) {
  if (kind !== "api-key") return lists.login;
  return plan === "dashscope" ? lists[`dashscope-${region === "cn" ? "cn" : "intl"}`] : lists[plan];
}

/** The chat models of a caller: its key's own, else those of its plan and region. */
export function modelsOf(caller) {
  return caller.models ?? Object.keys(listOf(caller));
}

/** The list of `GET /models`, with DashScope's models of other kinds. */
export function listedFor(caller) {
  const isMixed = caller.plan === "dashscope" && caller.models === undefined;
  return isMixed ? [...modelsOf(caller), ...NOT_CHAT] : modelsOf(caller);
}

function factsOf(model) {
  return Object.values(lists).flatMap((list) => list[model] ?? []);
}

/** The largest output of a model, in tokens; `Infinity` without a cap. */
export function capOf(model) {
  const known = factsOf(model).map(({ output }) => output);
  if (known.length > 0) return Math.max(...known);
  return CAPS.find(([pattern]) => pattern.test(model))?.[1] ?? Infinity;
}

/** True for a model that takes images, by any list or by its name. */
export function takesImages(model) {
  return factsOf(model).some(({ input }) => input.includes("image")) || /-(?:vl|omni)/.test(model);
}
