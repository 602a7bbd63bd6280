"use strict";

// Names of plans and regions for display.

const { clean } = require("./text");

const TITLES = { "coding-plan": "Coding Plan", "token-plan": "Token Plan", dashscope: "DashScope" };

/** True for an account whose requests are billed by use. */
function isMetered({ kind, plan }) {
  return kind === "api-key" && plan !== "coding-plan" && plan !== "token-plan";
}

/** Adds `billedByUse: true` to a metered account, for the JSON of commands that add accounts. */
const withPrice = (account) => (isMetered(account) ? { ...account, billedByUse: true } : account);

const planTitle = (plan) => (Object.hasOwn(TITLES, plan) ? TITLES[plan] : clean(plan));

/** Returns text such as "Token Plan, intl". A login has no plan and no region. */
function planOf({ kind, plan, region }) {
  if (kind === "oauth") return "login";
  const title = plan === undefined ? "key" : planTitle(plan);
  return region === undefined ? title : `${title}, ${clean(region)}`;
}

module.exports = { isMetered, planOf, planTitle, withPrice };
