"use strict";

// The pages of Alibaba's consoles that show a user's keys.

const { keyPages } = require("./native");

const REGIONS = { cn: "China", intl: "international", us: "United States", hk: "Hong Kong" };

/**
 * Returns the pages for a plan and a region, or for all of them. Regions with the same page share an entry.
 *
 * @param {{ plan?: string, region?: string }} choice
 * @returns {{ title: string, regions: string[], page: string }[]} at least one
 */
function pagesOf({ plan, region }) {
  const all = keyPages();
  const ofPlan = all.filter((place) => plan === undefined || place.plan === plan);
  const chosen = ofPlan.filter((place) => region === undefined || place.region === region);
  const pages = new Map();
  for (const { title, region: name, page } of [chosen, ofPlan, all].find((places) => places.length > 0)) {
    const entry = pages.get(page) ?? { title, regions: [], page };
    entry.regions.push(REGIONS[name] ?? name);
    pages.set(page, entry);
  }
  return [...pages.values()];
}

/** Returns a line for each page. */
function pageLines(choice) {
  return pagesOf(choice).map(({ title, regions, page }) => `${title}, ${regions.join(", ")}: ${page}`);
}

module.exports = { pageLines, pagesOf };
