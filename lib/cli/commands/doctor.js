"use strict";

const { examine } = require("../../doctor");
const { environment } = require("../../validate");
const { clean } = require("../text");

const MARKS = { ok: "ok", warning: "warning", broken: "BROKEN" };
const WIDTH = Math.max(...Object.values(MARKS).map((mark) => mark.length));
const FAILED = 1;

/** Runs without a client, since it also finds problems that prevent creating one. */
async function run({ env, signal }) {
  const settings = { oauth: {}, forOpenCode: false };
  const findings = await examine(settings, environment(env, "process.env"), { signal });
  const broken = findings.filter(({ state }) => state === "broken").length;
  return {
    value: findings,
    lines: [...findings.map(line), summary(broken)],
    exitCode: broken > 0 ? FAILED : undefined,
  };
}

function line({ id, state, message, fix }) {
  const advice = fix === undefined ? "" : ` Fix: ${clean(fix)}`;
  return `${MARKS[state].padEnd(WIDTH)}  ${id}: ${clean(message)}${advice}`;
}

function summary(broken) {
  if (broken === 0) return "Nothing is broken.";
  return `${broken} ${broken === 1 ? "thing is" : "things are"} broken.`;
}

module.exports = {
  summary: "look for problems and report how to fix them",
  options: {},
  isStandalone: true,
  run,
};
