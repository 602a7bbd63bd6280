// Keys of plans in OpenCode: added, chosen, used up.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { startPlaces } from "../support/places.mjs";
import { assertClean, assertFailure, assertPlaceholder } from "./support/checks.mjs";
import { AUTH, Host, LOGIN_LABEL, STORE, openHost, suite } from "./support/opencode.mjs";

const KEY_METHOD = 2;
const MODEL = { model: "qwen3-coder-plus" };

describe("keys", suite(), () => {
  test("a key is pasted like a login code, stored by the plugin alone, and enough to chat", async (t) => {
    const { server, env } = await startPlaces(t);
    const { HTTPS_PROXY, NODE_EXTRA_CA_CERTS } = env;
    const host = new Host({ server, login: false, env: { HTTPS_PROXY, NODE_EXTRA_CA_CERTS } });
    t.after(() => host.close());
    const key = server.addKey({ plan: "coding-plan", region: "intl" });
    const service = await host.serve();
    const { body: methods } = await service.request("/provider/auth");
    const labels = methods["qwen-code"].map(({ label }) => label);
    assert.equal(labels[0], LOGIN_LABEL);
    assert.match(labels[KEY_METHOD], /^Coding Plan, Token Plan or DashScope key$/);
    const step = (name, fields) => service.oauth(name, { method: KEY_METHOD, ...fields });

    assert.equal((await step("authorize")).body.method, "code");
    assert.notEqual((await step("callback", { code: "two words" })).body, true);
    assert.equal(host.sandbox.has(STORE), false);

    await step("authorize");
    assert.equal((await step("callback", { code: ` "${key}"` })).body, true);
    assertPlaceholder(host);
    assert.ok(!host.sandbox.read(AUTH).includes(key));
    assert.deepEqual(
      host.sandbox.readJson(STORE).apiKeys.map(({ plan, region }) => ({ plan, region })),
      [{ plan: "coding-plan", region: "intl" }],
    );
    await service.reload();
    const models = Object.keys(await service.models());
    for (const model of ["qwen3.7-plus", "qwen3-coder-plus", "qwen3-coder-next", "kimi-k2.5"])
      assert.ok(models.includes(model), models.join());
    assert.ok(!models.includes("coder-model"), models.join());
    assert.equal((await service.ask("hello", MODEL)).text, "You said: hello");
    const { place, headers, body } = server.seen("chat").at(-1);
    assert.deepEqual(place, { plan: "coding-plan", region: "intl" });
    assert.equal(headers.authorization, `Bearer ${key}`);
    assert.equal(headers["x-dashscope-authtype"], "openai");
    assert.equal(body.max_tokens, 65_536);
    assertClean(server);
  });

  test("a plan with a used-up hour ends the run at once with one line", async (t) => {
    const host = await openHost(t, { login: false });
    host.addKey();
    host.addKey({ id: "billed", plan: "dashscope", label: "Billed" });
    host.server.setQuota("planned", 0, { window: "hour" });
    const result = await host.chat("hello", MODEL);
    assert.equal(result.code, 1);
    assertFailure(
      result,
      /^This Qwen account has used up its 5-hour quota\. It will be tried again at \d\d:\d\d \(in (30|29) min\)\. Wait until then, or go on with "Billed", which costs more: `npx opencode-qwen-cli-auth use Billed`\.$/,
    );
    assert.deepEqual(
      host.server.seen("chat").map(({ account }) => account),
      ["planned"],
    );
  });

  test("OpenCode waits for a limit of tokens per minute", async (t) => {
    const host = await openHost(t, { login: false, env: { OPENCODE_QWEN_QUOTA_COOLDOWN_MS: "1000" } });
    host.addKey();
    const message = "You exceeded your current quota, please check your plan and billing details.";
    host.server.script("chat", [{ do: "quota", message, times: 2 }]);
    const result = await host.chat("hello", MODEL);
    assert.equal(result.code, 0, result.stderr);
    const statuses = host.server.seen("chat").map(({ status }) => status);
    assert.deepEqual(statuses, [429, 429, 200]);
  });
});
