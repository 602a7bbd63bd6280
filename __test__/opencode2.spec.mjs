import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { testCases } from "./support/cases.mjs";
import { RUNTIMES, inChild } from "./support/child.mjs";
import { startPlaces } from "./support/places.mjs";

await testCases("OpenCode 2's stand-in", "opencode2-cases.mjs");

/** Logs in with a key, without any account or Qwen directory, and chats with a model of its plan. */
async function logInWithKey({ report, data }) {
  const { Host } = await import(data.hostModule);
  const host = await Host.load(data.checkout);
  const location = await host.open();
  const answer = { plan: "coding-plan", region: "intl" };
  const { url, instructions } = await location.connect("qwen-code", "key", answer);
  const { status, message } = await location.login("qwen-code", "key", { code: data.key });
  const has = () => location.provider.get("qwen-code").models.some(({ id }) => id === "qwen3-coder-plus");
  for (const end = Date.now() + 60_000; !has() && Date.now() < end;) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const answers = await location.chat("qwen-code", "qwen3-coder-plus");
  const { credentials } = host;
  await host.close();
  const login = { url, instructions, status, message };
  report({ ...login, credentials, answers: answers.map(({ status, text }) => ({ status, text })) });
}

for (const runtime of Object.keys(RUNTIMES)) {
  test(`a key logs in to OpenCode 2's stand-in in ${runtime}, and OpenCode keeps a placeholder`, async (t) => {
    const { server, home, env } = await startPlaces(t);
    const key = server.addKey({ plan: "coding-plan", region: "intl" });
    const data = {
      key,
      checkout: fileURLToPath(new URL("..", import.meta.url)),
      hostModule: new URL("support/opencode2-host.mjs", import.meta.url).href,
    };
    const told = await inChild(t, runtime, logInWithKey, { data, env });
    assert.equal(told.status, "complete", told.message);
    assert.match(told.url, /^https:\/\/modelstudio\.console\.alibabacloud\.com\/\S*tab=coding-plan/);
    assert.ok(told.instructions.endsWith(`Key pages: Coding Plan, international: ${told.url}`));
    assert.equal(told.credentials.length, 1);
    assert.match(told.credentials[0].value.access, /^opencode-qwen-cli-auth:/);
    assert.equal(told.credentials[0].label, "Coding Plan key");
    assert.ok(!JSON.stringify(told.credentials).includes(key));
    const store = join(home.home, ".qwen/oauth_accounts.json");
    assert.ok(existsSync(store) && readFileSync(store, "utf8").includes(key));
    assert.equal(told.answers.length, 1);
    assert.equal(told.answers[0].status, 200);
    assert.match(told.answers[0].text, /\[DONE\]/);
    assert.deepEqual(server.seen("chat").at(-1).place, { plan: "coding-plan", region: "intl" });
  });
}
