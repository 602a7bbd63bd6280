// Keys of plans in OpenCode: added, chosen, used up; and the end of the free tier.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { assertAnswer, assertClean, assertFailure, assertPlaceholder } from "./support/checks.mjs";
import { startPlaces } from "../support/places.mjs";
import { AUTH, CREDENTIALS, Host, LOGIN_LABEL, OLDER, openHost, suite } from "./support/opencode.mjs";

const STORE = ".qwen/oauth_accounts.json";
const KEY_METHOD = 2;
const MODEL = { model: "qwen3-coder-plus" };

const pick = (object, names) => Object.fromEntries(names.map((name) => [name, object[name]]));

/** Adds a key for this server to the user's account store. */
function addKey(host, { plan = "coding-plan", ...fields } = {}) {
  const key = host.server.addKey({ plan, account: fields.id ?? "planned" });
  const before = host.sandbox.has(STORE) ? host.sandbox.readJson(STORE) : { version: 1, accounts: [] };
  const record = { id: "planned", plan, key, baseUrl: host.server.apiBaseUrl, createdAt: 1, ...fields };
  const { activeAccountId = record.id, apiKeys = [] } = before;
  host.sandbox.write(STORE, { ...before, activeAccountId, apiKeys: [...apiKeys, record] });
  return key;
}

describe("keys", suite(), () => {
  test("a key is pasted like a login code, stored by the plugin alone, and enough to chat", async (t) => {
    const { server, env } = await startPlaces(t);
    const host = new Host({ server, login: false, env: pick(env, ["HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"]) });
    t.after(() => host.close());
    const key = server.addKey({ plan: "coding-plan", region: "intl" });
    const service = await host.serve();
    const { body: methods } = await service.request("/provider/auth");
    const labels = methods["qwen-code"].map(({ label }) => label);
    assert.equal(labels[0], LOGIN_LABEL);
    assert.match(labels[KEY_METHOD], /^Coding Plan, Token Plan or DashScope key$/);
    const step = (name, body) =>
      service.request(`/provider/qwen-code/oauth/${name}`, { method: KEY_METHOD, ...body });

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
    assertAnswer(await host.chat("hello", MODEL), "You said: hello");
    assert.deepEqual(server.seen("chat").at(-1).place, { plan: "coding-plan", region: "intl" });
    assertClean(server);
  });

  test("the models of the plan are listed, and its key answers", async (t) => {
    const host = await openHost(t, { login: false });
    const key = addKey(host);
    const { stdout } = await host.run(["models", "qwen-code"]);
    const listed = stdout.split("\n");
    for (const model of ["qwen3.7-plus", "qwen3-coder-plus", "qwen3-coder-next", "kimi-k2.5"])
      assert.ok(listed.includes(`qwen-code/${model}`), stdout);
    assert.ok(!listed.includes("qwen-code/coder-model"), stdout);
    assertAnswer(await host.chat("hello", MODEL), "You said: hello");
    const [request] = host.server.seen("chat");
    assert.equal(request.headers.authorization, `Bearer ${key}`);
    assert.equal(request.headers["x-dashscope-authtype"], "openai");
    assert.equal(request.body.max_tokens, 65_536);
    assertClean(host.server);
  });

  test("a plan with a used-up hour ends the run with one line", async (t) => {
    const host = await openHost(t, { login: false });
    addKey(host);
    addKey(host, { id: "billed", plan: "dashscope", label: "Billed" });
    host.server.setQuota("planned", 0, { window: "hour" });
    assertFailure(
      await host.chat("hello", MODEL),
      /^This Qwen account has used up its 5-hour quota\. It will be tried again at \d\d:\d\d \(in (30|29) min\)\. Wait until then, or go on with "Billed", which costs more: `npx opencode-qwen-cli-auth use "Billed"`\.$/,
    );
    assert.deepEqual(
      host.server.seen("chat").map(({ account }) => account),
      ["planned"],
    );
    // With permission it continues.
    const env = { OPENCODE_QWEN_ALLOW_PAID_FALLBACK: "1" };
    assertAnswer(await host.chat("hello", { ...MODEL, env }), "You said: hello");
    assert.equal(host.server.seen("chat").at(-1).account, "billed");
  });

  test("the end of the free tier is one line at each request, without a loop", async (t) => {
    const host = await openHost(t, { server: { freeTier: false } });
    for (let turn = 0; turn < 2; turn += 1) {
      assertFailure(
        await host.chat("hello"),
        /^Qwen ended its free tier on 2026-04-15: [^\n]*`npx opencode-qwen-cli-auth add-key`[^\n]*`opencode -m qwen-code\/qwen3\.7-plus`\.$/,
      );
    }
    assert.equal(host.server.stats.redemptions, 1);
    assert.equal(host.server.seen("chat").length, 3);
    // One success from the server restores the account at once.
    host.server.set({ freeTier: true });
    assertAnswer(await host.chat("hello"), "You said: hello");
    assert.ok(host.sandbox.has(CREDENTIALS));
  });
});

for (const version of OLDER) {
  test(`a key answers in OpenCode ${version}`, suite(version), async (t) => {
    const host = await openHost(t, { login: false, version });
    addKey(host);
    assertAnswer(await host.chat("hello", MODEL), "You said: hello");
    assert.equal(host.server.seen("chat")[0].kind, "api-key");
    assertClean(host.server);
  });
}
