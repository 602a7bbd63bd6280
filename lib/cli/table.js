"use strict";

// The table of accounts.

const { LOG_IN } = require("./naming");
const { clean, clip, pad, width } = require("./text");
const { distance, timeOfDay } = require("./time");

const GAP = "  ";
const HEADINGS = ["", "ACCOUNT", "STATE", "TOKEN EXPIRES", "LAST ERROR"];
/** How columns give way where there is no room: which one, and down to what width. */
const CONCESSIONS = [
  [1, 20],
  [4, 12],
  [1, 8],
  [4, 0],
  [3, 7],
  [2, 11],
];

/** @returns {string[]} lines of `columns` cells at the most */
function accountsTable(accounts, { columns, now }) {
  if (accounts.length === 0) return [`There is no account. ${LOG_IN}`];
  const rows = [HEADINGS, ...accounts.map((account) => cellsOf(account, now))];
  const widths = fit(
    HEADINGS.map((_, column) => Math.max(...rows.map((row) => width(row[column])))),
    columns,
  );
  return rows.map((row) => {
    const cells = row.map((cell, column) => pad(cell, widths[column]));
    return clip(cells.join(GAP).trimEnd(), columns);
  });
}

function cellsOf({ active, label, state, coolingUntil, expiresAt, lastError }, now) {
  return [
    active ? "*" : "",
    clean(label),
    state === "cooling" && coolingUntil ? `cooling, free at ${timeOfDay(coolingUntil, now)}` : clean(state),
    expiresAt === undefined ? "" : distance(expiresAt, now),
    lastError === undefined ? "" : inWords(lastError.code),
  ];
}

/** ERR_QWEN_QUOTA_EXHAUSTED has no room in a table. */
function inWords(code) {
  return clean(code)
    .replace(/^ERR_QWEN_/, "")
    .replaceAll("_", " ")
    .toLowerCase();
}

function fit(natural, columns) {
  const widths = [...natural];
  let surplus = widths.reduce((sum, width) => sum + width, GAP.length * (widths.length - 1)) - columns;
  for (const [column, least] of CONCESSIONS) {
    const given = Math.max(0, Math.min(surplus, widths[column] - least));
    widths[column] -= given;
    surplus -= given;
  }
  return widths;
}

module.exports = { accountsTable };
