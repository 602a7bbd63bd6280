// Contenders take turns in rounds, so that other load on the machine affects all of them. Each round gives one figure
// for each contender, and ratios compare figures of the same round.
import { summary } from "./stats.mjs";

const isOurs = (name) => name === "client" || name === "plugin";

/** Measures each contender once per round, starting with a different one each time. */
export async function inTurns(contenders, rounds, measure) {
  const results = Object.fromEntries(contenders.map((name) => [name, { values: [], error: undefined }]));
  for (let round = 0; round < rounds; round += 1) {
    for (let turn = 0; turn < contenders.length; turn += 1) {
      const contender = contenders[(turn + round) % contenders.length];
      if (results[contender].error !== undefined) continue;
      try {
        results[contender].values.push(await measure(contender));
      } catch (error) {
        // This package must not fail. Failures of others are reported.
        if (isOurs(contender)) throw error;
        results[contender].error = error.message;
      }
    }
  }
  return { results };
}

/** Summarizes values. */
export function figures(values) {
  const known = values.filter((value) => Number.isFinite(value));
  return known.length === 0 ? {} : { ...summary(known), values: known };
}

/** Returns how many times better than the reference a contender is, with the spread over the rounds. */
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
