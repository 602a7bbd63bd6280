// The tests and files that documents name must exist.
import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
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

/** Finds the paths that are named like `crates/base/src/error.rs`, and the targets of links to files. */
function* paths(text) {
  const named =
    /`(\.?(?:\.\/|src|crates|fuzz|__test__|lib|bin|scripts|bench|docs|npm|catalog|\.github)\/[\w./-]*)`/g;
  for (const [, path] of text.matchAll(named)) yield ["", path];
  for (const [, path] of text.matchAll(/\]\((?!https?:)([^)#\s]+)/g)) yield ["link", path];
}

const isDocument = (name) => name.endsWith(".md");
for (const document of [
  ...readdirSync(ROOT).filter(isDocument),
  ...readdirSync(join(ROOT, "docs"))
    .filter(isDocument)
    .map((name) => `docs/${name}`),
]) {
  test(`${document} names only existing files`, () => {
    const folder = join(ROOT, dirname(document));
    for (const [kind, path] of paths(readFileSync(join(ROOT, document), "utf8"))) {
      assert.ok(existsSync(join(kind === "link" ? folder : ROOT, path)), path);
    }
  });
}
