"use strict";

// Lists the keys that other tools keep, and asks which to import.

const { planTitle } = require("./plans");
const { ask } = require("./question");
const { clean, columns } = require("./text");

const NOTHING = [
  "No keys were found: not in the environment, in .env files, in the qwen CLI's settings, or in OpenCode's auth.json and",
  "configuration. To add a key yourself: opencode-qwen-cli-auth add-key",
];

/** Returns a numbered list. Keys that an account already has get no number. */
function list(found, title = "Keys that other tools keep:") {
  if (found.length === 0) return NOTHING;
  let number = 0;
  const rows = found.map(({ credential, alsoIn, foreign, login }) => {
    const { source, lastFour, known } = credential;
    const sources = [source, ...alsoIn].map(clean).join(", ");
    if (!known) number += 1;
    return [
      known ? "-" : String(number),
      foreign ? `OTHER SERVER: ${clean(credential.baseUrl)}` : placeOf(credential, login),
      `…${clean(lastFour)}`,
      known ? `${sources} (an account has it)` : sources,
    ];
  });
  return [title, ...columns(rows).map((line) => `  ${line}`)];
}

/** Returns the plan and region, or the server, that a key's entry names. */
function placeOf({ plan, region, baseUrl }, isLogin) {
  if (isLogin) return baseUrl === undefined ? "login" : `login, ${clean(baseUrl)}`;
  if (plan === undefined) return baseUrl === undefined ? "plan and region to be detected" : clean(baseUrl);
  return `${planTitle(plan)}, ${region === undefined ? "region to be detected" : clean(region)}`;
}

/** Returns lines about keys that no account has. Empty if the search fails. */
async function elsewhere(client) {
  try {
    const fresh = (await client.foundKeys()).filter(({ credential }) => !credential.known);
    if (fresh.length === 0) return [];
    const [{ credential, foreign }] = fresh;
    const { plan, source, baseUrl } = credential;
    const kind = foreign
      ? `key for ${clean(baseUrl)}`
      : `${plan === undefined ? "Alibaba Cloud" : planTitle(plan)} key`;
    const more = fresh.length > 1 ? `, and ${fresh.length - 1} more elsewhere` : "";
    return [`A ${kind} is in ${clean(source)}${more}: run \`npx opencode-qwen-cli-auth import\`.`];
  } catch {
    return [];
  }
}

/**
 * Asks which keys to import, and asks again after an invalid answer.
 *
 * @param {object[]} keys in the order of their numbers
 * @returns {Promise<object[]>} the chosen ones
 */
async function choose(keys, signal) {
  for (;;) {
    const answer = await ask("Import which? all, none, or numbers such as 1,2: ", signal);
    const chosen = read(answer, keys);
    if (chosen !== undefined) return chosen;
  }
}

/** Returns `undefined` for an invalid answer. */
function read(answer, keys) {
  const words = answer
    .toLowerCase()
    .split(/[\s,;]+/)
    .filter(Boolean);
  if (words.length === 0 || (words.length === 1 && ["none", "no", "n"].includes(words[0]))) return [];
  if (words.length === 1 && ["all", "yes", "y"].includes(words[0])) {
    return keys.filter(({ takenWithAll }) => takenWithAll);
  }
  const numbers = words.map(Number);
  if (!numbers.every((number) => Number.isInteger(number) && number >= 1 && number <= keys.length)) {
    return undefined;
  }
  return keys.filter((_, index) => numbers.includes(index + 1));
}

module.exports = { choose, elsewhere, list };
