// Prints the tables on the terminal.
import { titleOf } from "./contenders.mjs";

/** Formats a figure with up to three digits. */
export function number(value) {
  if (value === undefined) return "";
  if (!Number.isFinite(value)) return "never";
  const size = Math.abs(value);
  if (size >= 1_000) return Math.round(value).toLocaleString("en");
  return Number(value.toPrecision(3)).toString();
}

export function spread({ low, high }) {
  return low === undefined ? "" : `${number(low)} to ${number(high)}`;
}

const TARGET_HEAD = ["target", "measured", "met"];
const HEAD = ["measure", "contender", "median", "quartiles", "unit", "times as good"];

const targetRows = (targets) =>
  targets.map(({ title, measured, isMet }) => [
    title,
    measured,
    isMet === undefined ? "" : isMet ? "yes" : "no",
  ]);

function rowsOf(runtime, results) {
  const known = results.filter((entry) => entry.runtime === runtime && entry.median !== undefined);
  const plain = known.filter(
    ({ measure }) => !measure.includes(": times as good") && !measure.includes(": over "),
  );
  return plain.map(({ measure, contender, unit, ...figures }) => {
    const ratio = known.find(
      (entry) => entry.contender === contender && entry.measure.startsWith(`${measure}: times as good`),
    );
    const relation = ratio ? `${number(ratio.median)} (${spread(ratio)})` : "";
    return [measure, titleOf(contender), number(figures.median), spread(figures), unit, relation];
  });
}

function obstaclesOf(runtime, results) {
  return results
    .filter((entry) => entry.runtime === runtime && entry.reason)
    .map(({ contender, measure, reason }) => `${titleOf(contender)}, ${measure}: ${reason}`);
}

const conditions = ({ cpu, cores, loadBefore, loadAfter }) =>
  `${cpu}, ${cores} cores, load ${number(loadBefore)} before and ${number(loadAfter)} after.`;

export function printTables(report) {
  const { runtimes, results, targets } = report;
  for (const [runtime, title] of Object.entries(runtimes)) {
    console.log(`\n${title}`);
    table(HEAD, rowsOf(runtime, results));
    const obstacles = obstaclesOf(runtime, results);
    if (obstacles.length > 0) console.log(`Not measured, or not fully:\n  ${obstacles.join("\n  ")}`);
  }
  console.log("\nTargets");
  table(TARGET_HEAD, targetRows(targets));
  console.log(`\n${conditions(report)}`);
}

/** Writes the tables as a page. */
export function markdown(report) {
  const { runtimes, results, targets, date, version } = report;
  const lines = [
    "# Figures",
    "",
    `Version ${version}, ${date}. ${conditions(report)} Written by \`npm run bench -- --docs\`; [performance.md](performance.md) says what they mean.`,
    "",
    'Each figure is the median of several runs, with the quartiles beside it. Contenders took turns. "Times as good" is the median of the ratios of the same round: to the runtime\'s own fetch, or, for starts, to this package.',
    "",
    "## Targets",
    "",
    ...markdownTable(TARGET_HEAD, targetRows(targets)),
  ];
  for (const [runtime, title] of Object.entries(runtimes)) {
    lines.push("", `## ${title}`, "", ...markdownTable(HEAD, rowsOf(runtime, results)));
    const obstacles = obstaclesOf(runtime, results).map((obstacle) => `- ${obstacle}`);
    if (obstacles.length > 0) lines.push("", "Not measured, or not fully:", "", ...obstacles);
  }
  return `${lines.join("\n")}\n`;
}

function markdownTable(head, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)];
}

function table(head, rows) {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column].length)),
  );
  const line = (cells) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column]))
      .join("  ")
      .trimEnd();
  console.log([line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n"));
}
