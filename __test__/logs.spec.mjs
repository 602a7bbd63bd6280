// The logs of a process: nothing is printed, and all is written before its end.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { EXPIRED, setUp } from "./support/harness.mjs";
import { SECRET_PREFIX } from "./support/qwen-server.mjs";

test("nothing is printed, and a process writes its logs before it ends", async (t) => {
  const { home, server, settings } = await setUp(t, {
    env: { DEBUG_QWEN_PLUGIN: "1", ENABLE_PLUGIN_REQUEST_LOGGING: "1" },
    token: EXPIRED,
    server: { interval: 0.05, autoApprove: true },
  });
  server.script("chat", ["ok", "quota", "reset", "token_rejected", "ok", "ok", "hang"]);
  const program = async (settings) => {
    const { default: qwen } = await import("opencode-qwen-cli-auth/api");
    const client = qwen.createClient({ ...settings, quotaCooldownMs: 1, degrade: false });
    for (let turn = 0; turn < 6; turn += 1) {
      const body = JSON.stringify({
        model: "coder-model",
        messages: [{ role: "user", content: `turn ${turn}` }],
      });
      const headers = { "content-type": "application/json", cookie: "session=a-cookie-of-the-caller" };
      // The last one is aborted.
      const signal = turn === 5 ? AbortSignal.timeout(300) : undefined;
      const init = { method: "POST", headers, body, signal };
      const response = await client.fetch(`${client.baseUrl}/chat/completions`, init).catch((error) => error);
      await response.text?.();
    }
    await client.login({ openBrowser: false });
    client.close();
  };
  const child = spawn(
    process.execPath,
    ["--input-type=module", "--eval", `await (${program})(${JSON.stringify(settings)})`],
    { cwd: fileURLToPath(new URL("..", import.meta.url)), stdio: ["ignore", "pipe", "pipe"] },
  );
  t.after(() => child.kill("SIGKILL"));
  const printed = Promise.all([child.stdout, child.stderr].map((stream) => stream.toArray()));
  const [code] = await once(child, "close");
  assert.deepEqual([code, await printed], [0, [[], []]]);
  assert.equal(server.stats.logins, 1);

  const directory = join(home.home, ".opencode/logs/qwen-plugin");
  const names = readdirSync(directory).sort();
  const texts = names.map((name) => readFileSync(join(directory, name), "utf8"));
  const records = texts.filter((_, index) => names[index].endsWith(".json")).map((text) => JSON.parse(text));
  assert.deepEqual(
    records.map(({ outcome }) => outcome),
    ["completed", "completed", "ERR_QWEN_NETWORK", "completed", "completed", "cancelled"],
  );
  const text = texts.join("\n");
  for (const word of ["turn 0", "turn 5", "attempt"]) assert.ok(text.includes(word), `${word} is not logged`);
  for (const secret of [SECRET_PREFIX, "a-cookie-of-the-caller", ...server.issued]) {
    const forms = [secret, encodeURIComponent(secret), Buffer.from(secret).toString("base64")];
    for (const form of forms) assert.ok(!text.includes(form), "a secret is logged");
  }
});
