// Builds catalog/catalog.json from the lists in catalog/sources: `npm run catalog`. With --check it writes nothing and
// fails if the file is out of date.
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";

import { root } from "./tasks.mjs";

const FORMAT = 1;
/** The day when the sources were collected. */
const COLLECTED = "2026-11-28";
const CATALOG = path.join(root, "catalog/catalog.json");

/** The lists of the catalog, each with its providers in models-dev.json and its plan in qwen-code.json. */
const LISTS = {
  "token-plan": { providers: ["alibaba-token-plan", "alibaba-token-plan-cn"], preset: "token-plan" },
  "coding-plan": { providers: ["alibaba-coding-plan", "alibaba-coding-plan-cn"], preset: "coding-plan" },
  "dashscope-cn": { providers: ["alibaba-cn"], preset: "dashscope", isMetered: true },
  "dashscope-intl": { providers: ["alibaba"], preset: "dashscope", isMetered: true },
};
/** Supported inputs, in order. Other inputs are left out. */
const INPUTS = ["text", "image", "pdf", "video"];
/** Efforts from low to high. */
const EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
/** The largest thinking budget that every Qwen 3 model accepts, in tokens. Used for models without one in the lists. */
const COMMON_BUDGET = 38_912;
const PRICES = ["input", "output", "cache_read", "cache_write", "context_over_200k"];

const source = async (name) =>
  JSON.parse(await readFile(path.join(root, `catalog/sources/${name}.json`), "utf8"));

/** Removes empty fields from an object. */
function compact(fields) {
  const isKept = (value) =>
    value !== undefined && value !== false && !(typeof value === "object" && Object.keys(value).length === 0);
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => isKept(value)));
}

const ordered = (order, values) => order.filter((value) => values.includes(value));

/** Returns the efforts in a preset: "low, high, max". "toggle" is not an effort. */
function presetEfforts(preset) {
  const words = preset?.thinking?.split(", ") ?? [];
  return words.filter((word) => word !== "toggle");
}

function thinking(listed, preset) {
  const options = listed.flatMap((model) => model.reasoning_options ?? []);
  const efforts = options.flatMap((option) => (option.type === "effort" ? option.values : []));
  const budgets = options.flatMap((option) => (option.type === "budget_tokens" && option.max) || []);
  const toggle = options.some((option) => option.type === "toggle") || preset?.thinking === "toggle";
  const allEfforts = ordered(EFFORTS, [...efforts, ...presetEfforts(preset)]);
  // A model that only has a budget always thinks.
  const hasBudgetAlone =
    !toggle && allEfforts.length === 0 && options.some((option) => option.type === "budget_tokens");
  return compact({
    toggle,
    efforts: allEfforts,
    budget: budgets.length > 0 ? Math.min(...budgets) : hasBudgetAlone ? COMMON_BUDGET : undefined,
    mandatory: hasBudgetAlone || (preset?.mandatory ?? false),
  });
}

function price(listed) {
  const cost = listed[0]?.cost_usd_per_mtok;
  return cost && Object.fromEntries(PRICES.flatMap((name) => (name in cost ? [[name, cost[name]]] : [])));
}

/** Merges the entries of a model: `listed` from models-dev.json and `preset` from qwen-code.json. */
function merge(id, listed, preset, isMetered) {
  const inputs = ["text", ...listed.flatMap((model) => model.input), ...(preset?.images ? ["image"] : [])];
  const first = listed[0] ?? {};
  return compact({
    name: first.name ?? id,
    context: Math.max(...listed.map((model) => model.context), preset?.context ?? 0),
    output: listed.length > 0 ? Math.max(...listed.map((model) => model.output)) : undefined,
    input: ordered(INPUTS, inputs),
    reasoning: listed.some((model) => model.reasoning) || Boolean(preset?.thinking),
    thinking: thinking(listed, preset),
    interleaved: listed.find((model) => model.interleaved)?.interleaved.field,
    fixed_temperature: first.temperature === false,
    status: first.status,
    released: first.released,
    prices: isMetered ? price(listed) : undefined,
    enable_thinking_sent: preset?.enable_thinking_sent,
  });
}

/** True for a model whose only thinking control is a budget. */
const isBudgetAlone = (facts) => facts?.budget !== undefined && !facts.toggle && facts.efforts === undefined;

/** Completes each entry from other lists of the same model. */
function complete(lists) {
  const all = Object.values(lists).flatMap((models) => Object.entries(models));
  for (const [id, model] of all) {
    const others = all.flatMap(([other, facts]) => (other === id ? [facts] : []));
    const found = (pick) => others.map(pick).find((value) => value !== undefined);
    model.output ??= found((other) => other.output) ?? 32_768;
    model.name =
      model.name === id ? (found((other) => (other.name === id ? undefined : other.name)) ?? id) : model.name;
    model.released ??= found((other) => other.released);
    if (model.thinking && others.some((other) => other.thinking?.mandatory)) model.thinking.mandatory = true;
    if (model.reasoning) {
      model.thinking ??= found(({ thinking: other }) => (isBudgetAlone(other) ? other : undefined));
      model.interleaved ??= found((other) => other.interleaved);
      const budget = found((other) => other.thinking?.budget);
      if (model.thinking?.toggle && budget !== undefined) model.thinking.budget ??= budget;
    }
  }
}

const sorted = (object) =>
  Object.fromEntries(Object.entries(object).toSorted(([a], [b]) => (a < b ? -1 : 1)));

async function make() {
  const [modelsDev, qwenCode, login] = await Promise.all(["models-dev", "qwen-code", "login"].map(source));
  const lists = { login: login.plans.login };
  const notChat = new Set();
  for (const [list, { providers, preset, isMetered }] of Object.entries(LISTS)) {
    const presets = qwenCode.plans[preset];
    const listedBy = providers.map((provider) => modelsDev.providers[provider]);
    for (const { not_chat } of listedBy) not_chat.forEach((id) => notChat.add(id));
    const ids = new Set([...listedBy.flatMap(({ models }) => Object.keys(models)), ...Object.keys(presets)]);
    lists[list] = sorted(
      Object.fromEntries(
        [...ids].map((id) => {
          const listed = listedBy.flatMap(({ models }) => models[id] ?? []);
          return [id, merge(id, listed, presets[id], isMetered)];
        }),
      ),
    );
  }
  complete(lists);
  return {
    format: FORMAT,
    collected: COLLECTED,
    sources: [modelsDev.source, qwenCode.source, login.source],
    lists,
    not_chat: [...notChat].toSorted(),
    not_chat_patterns: modelsDev.not_chat_patterns,
  };
}

/** Writes one line per model, so that a diff shows which model changed. */
function format({ lists, ...rest }) {
  const models = (list) =>
    Object.entries(list).map(([id, model]) => `  ${JSON.stringify(id)}:${JSON.stringify(model)}`);
  const written = Object.entries(lists).map(
    ([name, list]) => ` ${JSON.stringify(name)}:{\n${models(list).join(",\n")}}`,
  );
  const head = Object.entries(rest).map(
    ([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`,
  );
  return `{${head.join(",\n")},\n"lists":{\n${written.join(",\n")}}}\n`;
}

/** Returns the mistakes in a catalog, one line each. */
function mistakes({ lists, collected }) {
  const isCount = (value) => Number.isSafeInteger(value) && value > 0;
  const found = /^\d{4}-\d\d-\d\d$/.test(collected) ? [] : ["COLLECTED is not a date"];
  for (const [list, models] of Object.entries(lists)) {
    for (const [id, { name, context, output, input, thinking = {}, prices = {} }] of Object.entries(models)) {
      const expect = (isRight, what) => isRight || found.push(`${list} ${id}: ${what}`);
      expect(typeof name === "string" && name !== "", "no name");
      expect(isCount(context) && isCount(output), "context and output must be positive whole numbers");
      expect(input.includes("text") && input.every((one) => INPUTS.includes(one)), "unknown input");
      expect(
        thinking.budget === undefined || isCount(thinking.budget),
        "budget must be a positive whole number",
      );
      expect(
        (thinking.efforts ?? []).every((effort) => EFFORTS.includes(effort)),
        "unknown effort",
      );
      expect(
        [prices, prices.context_over_200k ?? {}]
          .flatMap(Object.values)
          .every((value) => typeof value === "object" || value >= 0),
        "prices must not be negative",
      );
    }
  }
  return found;
}

const { values } = parseArgs({ options: { check: { type: "boolean" } } });
const catalog = await make();
const wrong = mistakes(catalog);
const text = format(catalog);
if (wrong.length === 0 && !values.check) await writeFile(CATALOG, text);
if (wrong.length === 0 && values.check && (await readFile(CATALOG, "utf8").catch(() => "")) !== text) {
  wrong.push("catalog/catalog.json is not what its sources give: run `npm run catalog`");
}
for (const mistake of wrong) console.error(mistake);
process.exitCode = wrong.length === 0 ? 0 : 1;
