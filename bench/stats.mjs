// What is said of a row of figures.

const sorted = (values) => [...values].sort((a, b) => a - b);

export function median(values) {
  const row = sorted(values);
  const middle = row.length >> 1;
  return row.length % 2 === 1 ? row[middle] : (row[middle - 1] + row[middle]) / 2;
}

/** The median, and the quarter and three-quarter points: the spread that a single bad run does not move. */
export function summary(values) {
  const row = sorted(values);
  const at = (part) => row[Math.min(row.length - 1, Math.floor(row.length * part))];
  return { median: median(row), low: at(0.25), high: at(0.75), runs: row.length };
}
