/**
 * Programs as a person runs them: in a pseudo-terminal, of which this shows what is on the screen.
 *
 * @module
 */

import { spawnSync } from "node:child_process";

/** Whether there is a `script` (of util-linux) to get a pseudo-terminal from. */
export const hasTerminal = /util-linux/.test(spawnSync("script", ["--version"]).stdout ?? "");

/** The command that runs another in a pseudo-terminal and passes its exit code on. */
export function inTerminal([program, ...args], { columns = 80, rows = 24 } = {}) {
  const quoted = [program, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
  return ["script", "-qfec", `stty cols ${columns} rows ${rows} -echo; exec ${quoted}`, "/dev/null"];
}

/** The lines that are on a terminal after all of `output`; trailing spaces are left out. */
export function screenAfter(output, columns = 80) {
  const cells = [[]];
  let row = 0;
  let column = 0;
  const to = (newRow) => {
    row = Math.max(0, newRow);
    while (cells.length <= row) cells.push([]);
  };
  // Colours, and whether there is a cursor, are not to be seen here.
  // oxlint-disable-next-line no-control-regex
  const text = output.replace(/\x1b\[(?:\d+m|\?25[hl])/g, "");
  // oxlint-disable-next-line no-control-regex
  for (const [piece, count, action] of text.matchAll(/\x1b\[(\d*)([A-Z])|[^]/gu)) {
    if (piece === "\r") column = 0;
    else if (piece === "\n") to(row + 1);
    else if (action === "A") to(row - Number(count || 1));
    else if (action === "K") cells[row].length = Math.min(cells[row].length, column);
    else if (action === "J") {
      cells[row].length = Math.min(cells[row].length, column);
      cells.length = row + 1;
    } else if (action !== undefined || piece < " ") throw new Error(`unknown to this terminal: ${piece}`);
    else {
      if (column >= columns) {
        to(row + 1);
        column = 0;
      }
      cells[row][column] = piece;
      column += 1;
    }
  }
  return cells.map((line) =>
    Array.from(line, (cell) => cell ?? " ")
      .join("")
      .trimEnd(),
  );
}
