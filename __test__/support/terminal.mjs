// Runs programs in a pseudo-terminal, and shows its screen.

import { spawnSync } from "node:child_process";

/** True if util-linux's `script`, which makes the pseudo-terminal, is installed. */
export const hasTerminal = /util-linux/.test(spawnSync("script", ["--version"]).stdout ?? "");

/** The command that runs another in a pseudo-terminal and returns its exit code. */
export function inTerminal([program, ...args], { columns = 80, rows = 24 } = {}) {
  const quoted = [program, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
  return ["script", "-qfec", `stty cols ${columns} rows ${rows} -echo; exec ${quoted}`, "/dev/null"];
}

/** The lines on the screen after all of `output`, without trailing spaces. */
export function screenAfter(output, columns = 80) {
  const cells = [[]];
  let row = 0;
  let column = 0;
  const to = (newRow) => {
    row = Math.max(0, newRow);
    while (cells.length <= row) cells.push([]);
  };
  // Colours and the cursor's visibility are ignored.
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
