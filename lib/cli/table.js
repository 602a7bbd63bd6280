"use strict";

// The table of accounts, with their states and usage.

const { cachedShare, compact, estimateOf, tokens } = require("./figures");
const { LOG_IN } = require("./naming");
const { planOf } = require("./plans");
const { PLAIN } = require("./style");
const { clean, clip, width } = require("./text");
const { countdown, duration } = require("./time");

const GAP = "  ";
const HEADINGS = ["", "ACCOUNT", "PLAN", "STATE", "TODAY", "LAST 5 H", "", "CACHED", "LAST ERROR"];
const [ACCOUNT, PLAN, STATE, TODAY, BAR, FIVE_HOURS, CACHED, LAST_ERROR] = [1, 2, 3, 4, 5, 6, 7, 8];
/** Columns to narrow if there is too little room, in order, each with its least width. Figures are never cut. */
const CONCESSIONS = [
  [ACCOUNT, 20],
  [LAST_ERROR, 12],
  [PLAN, 12],
  [BAR, 5],
  [ACCOUNT, 8],
  [PLAN, 0],
  [LAST_ERROR, 0],
  [TODAY, 0],
  [CACHED, 0],
  [FIVE_HOURS, 0],
  [BAR, 0],
  [STATE, 11],
];
const LEGEND = [
  "Requests · tokens. Bars compare the tokens of the last five hours; CACHED is today's share of input.",
  "Requests · tokens. Bars: the last five hours.",
];
const COLOURS = { ready: "green", cooling: "yellow", "needs-login": "red", disabled: "dim" };
const EIGHTHS = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
const HOUR_MS = 3_600_000;

/**
 * @param {object[]} accounts as `overview` gives them
 * @param {{ columns: number, now: number, style?: import("./style").Style, legend?: boolean }} options
 * @returns {string[]} lines of `columns` cells at the most
 */
function accountsTable(accounts, { columns, now, style = PLAIN, legend = true }) {
  if (accounts.length === 0) return [`There is no account. ${LOG_IN}`];
  const most = Math.max(...accounts.map(weight));
  const shares = accounts.map((account) => (most > 0 ? weight(account) / most : 0));
  const rows = accounts.map((account, index) => cellsOf(account, shares[index], now));
  const widths = fit([HEADINGS, ...rows], columns);
  const lines = rows.map((cells, index) => {
    cells[BAR] = bar(shares[index], widths[BAR]);
    const { enabled, state: usual } = accounts[index];
    const state = enabled === false ? "disabled" : usual;
    const colours = { [STATE]: COLOURS[state], [BAR]: COLOURS[state], [LAST_ERROR]: "red" };
    return lineOf(cells, widths, columns, (text, column) => style[colours[column]]?.(text) ?? text);
  });
  const explained = legend && accounts.some(({ usage }) => usage?.today.requests > 0);
  const legends = explained ? LEGEND.filter((line) => width(line) <= columns).slice(0, 1) : [];
  const estimated = accounts.flatMap((account) => {
    const estimate = estimateOf(account.usage);
    return estimate === "" ? [] : [clip(`${clean(account.label)}: ${estimate}`, columns)];
  });
  return [
    lineOf(HEADINGS, widths, columns, style.bold),
    ...lines,
    ...legends.map(style.dim),
    ...estimated.map(style.dim),
  ];
}

/** Returns the value that the bars compare. */
function weight({ usage }) {
  return usage === undefined ? 0 : usage.fiveHours.inputTokens + usage.fiveHours.outputTokens;
}

function cellsOf(account, share, now) {
  const { active, label, usage, lastError, quotaWindow } = account;
  return [
    active ? "*" : "",
    clean(label),
    account.kind === "api-key" ? planOf(account) : "",
    stateOf(account, now),
    figures(usage?.today),
    bar(share, HEADINGS[BAR].length),
    figures(usage?.fiveHours),
    usage === undefined ? "" : cachedShare(usage.today),
    quotaWindow === undefined ? inWords(lastError?.code ?? "") : `${clean(quotaWindow)} quota`,
  ];
}

function stateOf({ enabled, state, coolingUntil }, now) {
  if (enabled === false) return "disabled";
  return state === "cooling" && coolingUntil ? `cooling ${remaining(coolingUntil - now)}` : clean(state);
}

function remaining(ms) {
  return ms < HOUR_MS ? countdown(ms) : duration(ms);
}

function figures(counts) {
  if (counts === undefined || counts.requests === 0) return "";
  return `${compact.format(counts.requests)} · ${tokens(counts)}`;
}

/** Shortens a code such as ERR_QWEN_QUOTA_EXHAUSTED to words. */
function inWords(code) {
  return clean(code)
    .replace(/^ERR_QWEN_/, "")
    .replaceAll("_", " ")
    .toLowerCase();
}

/** Returns a bar of up to `cells` cells. The smallest share is still visible. */
function bar(share, cells) {
  const eighths = share > 0 ? Math.max(1, Math.round(share * cells * 8)) : 0;
  return "█".repeat(Math.floor(eighths / 8)) + EIGHTHS[eighths % 8];
}

/** Returns one line. Columns of width 0 leave no gap. */
function lineOf(cells, widths, columns, decorate) {
  let line = "";
  let used = 0;
  let owed = 0;
  for (const [column, cell] of cells.entries()) {
    if (widths[column] === 0) continue;
    const text = clip(cell, Math.min(widths[column], Math.max(0, columns - used - owed)));
    if (text !== "") {
      line += " ".repeat(owed) + decorate(text, column);
      used += owed + width(text);
      owed = 0;
    }
    owed += widths[column] - width(text) + GAP.length;
  }
  return line;
}

function fit(rows, columns) {
  const widths = HEADINGS.map((_, column) => Math.max(...rows.map((row) => width(row[column]))));
  const surplus = () => {
    const shown = widths.filter((width) => width > 0);
    return shown.reduce((sum, width) => sum + width + GAP.length, -GAP.length) - columns;
  };
  const [, ...accounts] = rows;
  const isEmpty = (column) => accounts.every((cells) => cells[column] === "");
  // There are only logins, which have no plan.
  if (isEmpty(PLAN)) widths[PLAN] = 0;
  const empty = HEADINGS.map((_, column) => column).filter(isEmpty);
  const concessions = [...empty.map((column) => [column, 0]).toReversed(), ...CONCESSIONS];
  for (const [column, least] of concessions) {
    const missing = surplus();
    if (missing <= 0) break;
    widths[column] = least === 0 ? 0 : Math.min(widths[column], Math.max(least, widths[column] - missing));
  }
  return widths;
}

module.exports = { accountsTable };
