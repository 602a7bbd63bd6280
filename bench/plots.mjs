// Draws bar charts as SVG without a background, readable on light and dark pages.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { CONTENDERS } from "./contenders.mjs";
import { number } from "./report.mjs";

const WIDTH = 720;
const LABELS = 270;
const VALUES = 90;
const BAR = 16;
const STEP = 24;
const TEXT = "#848d97";
const OURS = "#3b82f6";
const OTHERS = "#a3acb6";

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const text = (x, y, content, more = "") =>
  `<text x="${x}" y="${y}" fill="${TEXT}" ${more}>${escape(content)}</text>`;

/** @param {{title: string, groups: {title: string, unit: string, rows: object[]}[]}} chart */
function chart({ title, groups }) {
  const parts = [text(0, 18, title, 'font-size="15" font-weight="600"')];
  let y = 34;
  for (const { title: name, unit, rows } of groups) {
    parts.push(text(0, y + 16, name, 'font-style="italic"'));
    y += 26;
    const most = Math.max(...rows.map(({ high, median }) => Math.max(high, median)));
    const scale = (value) => Math.max(1, (Math.max(0, value) / most) * (WIDTH - LABELS - VALUES));
    for (const { contender, median, low, high } of rows) {
      const isOurs = contender === "client" || contender === "plugin";
      const middle = y + BAR / 2;
      parts.push(text(0, middle + 4, CONTENDERS[contender].title, isOurs ? 'font-weight="600"' : ""));
      parts.push(
        `<rect x="${LABELS}" y="${y}" width="${scale(median).toFixed(1)}" height="${BAR}" rx="2" fill="${isOurs ? OURS : OTHERS}"/>`,
      );
      const [from, to] = [low, high].map((value) => (LABELS + scale(value)).toFixed(1));
      parts.push(`<path d="M${from} ${middle}H${to}" stroke="${TEXT}" stroke-width="2"/>`);
      parts.push(text(LABELS + scale(Math.max(median, high)) + 8, middle + 4, `${number(median)} ${unit}`));
      y += STEP;
    }
    y += 10;
  }
  const font = 'font-family="system-ui, sans-serif" font-size="12"';
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" ${font}>\n${parts.join("\n")}\n</svg>\n`;
}

/** Writes the charts of docs/performance.md. Leaves out charts without figures. */
export function writePlots({ runtimes, results }, directory) {
  const group = (runtime, measure, title, contenders) => {
    const rows = results.filter(
      (entry) =>
        entry.runtime === runtime &&
        entry.measure === measure &&
        entry.median !== undefined &&
        contenders(entry.contender),
    );
    return { title, unit: rows[0]?.unit ?? "", rows };
  };
  const all = () => true;
  const once = (name) => name !== "plugin";
  const quick = (name) => name !== "opencode-qwen-oauth" && name !== "plugin";
  const host = "opencode" in runtimes ? "opencode" : Object.keys(runtimes).at(-1);
  const charts = {
    start: {
      title: `Starting, in ${runtimes[host]} (less is better)`,
      groups: [
        group(host, "import", "import", all),
        group(host, "start, 1 accounts", "import, configuration and loader, with 1 account", all),
        group(host, "start, 100 accounts", "the same with 100 accounts", all),
      ],
    },
    body: {
      title: `A request with a conversation of 3.5 MB, in ${runtimes[host]} (less is better)`,
      groups: [
        group(host, "3.5 MB body: main thread blocked", "the screen stands still for", once),
        group(host, "body of 3500 KB", "until the answer is there", once),
      ],
    },
    requests: {
      title: "Small requests and streams (more is better)",
      groups: Object.keys(runtimes).flatMap((runtime) =>
        [
          "requests, 1 at a time",
          "requests, 64 at a time",
          "stream, 16 KiB chunks",
          "stream, 200 B events",
        ].map((measure) => group(runtime, measure, `${runtimes[runtime]}: ${measure}`, quick)),
      ),
    },
    memory: {
      title: "Memory of a stream that nobody reads, while the server sends (less is better)",
      groups: Object.keys(runtimes).map((runtime) => group(runtime, "idle", runtimes[runtime], once)),
    },
  };
  for (const [name, { title, groups }] of Object.entries(charts)) {
    const filled = groups.filter(({ rows }) => rows.length > 0);
    if (filled.length > 0)
      writeFileSync(join(directory, `bench-${name}.svg`), chart({ title, groups: filled }));
  }
}
