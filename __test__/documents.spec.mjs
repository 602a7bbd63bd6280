// The tests that documents name must exist.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Finds each `file`: `test`, `another test` in a document. */
function* named(text) {
  for (const [, path, names] of text.matchAll(
    /`((?:src|crates|fuzz|__test__)\/[\w./-]+\.\w+)`(?:: ((?:`[^`]+`(?:, )?)+))?/g,
  )) {
    yield [path, [...(names ?? "").matchAll(/`([^`]+)`/g)].map(([, name]) => name)];
  }
}

for (const document of ["SECURITY.md", "RELIABILITY.md"]) {
  test(`${document} names only existing tests`, () => {
    let count = 0;
    for (const [path, names] of named(readFileSync(join(ROOT, document), "utf8"))) {
      assert.ok(existsSync(join(ROOT, path)), path);
      const source = readFileSync(join(ROOT, path), "utf8");
      for (const name of names) assert.ok(source.includes(name), `${path}: ${name}`);
      count += names.length;
    }
    assert.ok(count > 10, `only ${count} tests are named`);
  });
}
