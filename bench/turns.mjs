// Contenders take turns, round by round, so that whatever else the machine does meets them all; each round gives one
// figure of each, and ratios are made of figures of the same round.
import { summary } from "./stats.mjs";

const isOurs = (name) => name === "client" || name === "plugin";

/** Round by round, one figure of each contender, beginning with another one each time. */
export async function inTurns(contenders, rounds, measure) {
  const results = Object.fromEntries(contenders.map((name) => [name, { values: [], error: undefined }]));
  for (let round = 0; round < rounds; round += 1) {
    for (let turn = 0; turn < contenders.length; turn += 1) {
      const contender = contenders[(turn + round) % contenders.length];
      if (results[contender].error !== undefined) continue;
      try {
        results[contender].values.push(await measure(contender));
      } catch (error) {
        // Ours must not fail; what others can't do is said.
        if (isOurs(contender)) throw error;
        results[contender].error = error.message;
      }
    }
  }
  return { results };
}

/** What is said of some values. */
export function figures(values) {
  const known = values.filter((value) => Number.isFinite(value));
  return known.length === 0 ? {} : { ...summary(known), values: known };
}

/** How many times as good as the reference, and by how much it differs, round by round. */
export function relate(add, measure, contenders, results, pick, reference, better = "less") {
  const theirs = results[reference]?.values.map(pick);
  if (theirs === undefined || results[reference].error) return;
  for (const contender of contenders) {
    const own = results[contender].values.map(pick);
    if (contender === reference || results[contender].error || own.length === 0) continue;
    const pairs = own.map((value, round) => [value, theirs[round]]);
    const ratio = ([value, floor]) => (better === "more" ? value / floor : floor / value);
    add({
      measure: `${measure}: times as good as ${reference}`,
      contender,
      unit: "x",
      ...figures(pairs.map(ratio)),
    });
    add({
      measure: `${measure}: over ${reference}`,
      contender,
      unit: "",
      ...figures(pairs.map(([value, floor]) => value - floor)),
    });
  }
}
