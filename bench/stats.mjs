// Statistics of a list of figures.

const sorted = (values) => [...values].sort((a, b) => a - b);

export function median(values) {
  const row = sorted(values);
  const middle = row.length >> 1;
  return row.length % 2 === 1 ? row[middle] : (row[middle - 1] + row[middle]) / 2;
}

/** Returns the median and the quartiles, which a single bad run doesn't change. */
export function summary(values) {
  const row = sorted(values);
  const at = (part) => row[Math.min(row.length - 1, Math.floor(row.length * part))];
  return { median: median(row), low: at(0.25), high: at(0.75), runs: row.length };
}
