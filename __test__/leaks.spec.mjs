// The search for secrets that ends every other spec.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { leaksBelow } from "./support/leaks.mjs";
import { SECRET_PREFIX } from "./support/qwen-server.mjs";

test("a secret is found in any file and in any form", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "qwen-auth-leaks-"));
  t.after(() => rmSync(directory, { recursive: true }));
  mkdirSync(join(directory, "logs"));
  const secret = `${SECRET_PREFIX}-at-x7f`;
  const found = (name, text) => {
    writeFileSync(join(directory, name), text);
    const leaks = leaksBelow(directory);
    rmSync(join(directory, name));
    return leaks.map((path) => path.slice(directory.length + 1));
  };
  assert.deepEqual(found("logs/debug.log", "Authorization: Bearer ***"), []);
  assert.deepEqual(found("oauth_creds.json", secret), []);
  for (const text of [
    `Bearer ${secret}`,
    JSON.stringify({ deep: [{ token: secret }] }),
    ...["", "u", "us", "user:"].map((user) => Buffer.from(`${user}${secret}`).toString("base64")),
  ]) {
    assert.deepEqual(found("logs/debug.log", text), ["logs/debug.log"], text);
    assert.deepEqual(found("oauth_creds.json.log", text), ["oauth_creds.json.log"], text);
  }
  assert.deepEqual(found(`${secret}.txt`, ""), [`${secret}.txt`]);
});
