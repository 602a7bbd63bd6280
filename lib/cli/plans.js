"use strict";

// Names of plans and regions for display.

const { keyPages } = require("../native");
const { clean } = require("./text");

const planTitle = (plan) => keyPages().find((place) => place.plan === plan)?.title ?? clean(plan);

/** Returns text such as "Token Plan, intl". A login has no plan and no region. */
function planOf({ kind, plan, region }) {
  if (kind === "oauth") return "login";
  const title = plan === undefined ? "key" : planTitle(plan);
  return region === undefined ? title : `${title}, ${clean(region)}`;
}

module.exports = { planOf, planTitle };
