// Finding the endpoint of a key: one server behind a proxy plays all of Qwen's hosts.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { chat, rejection, startClient } from "./support/harness.mjs";
import { withoutOpenssl } from "./support/certificates.mjs";
import { startPlaces } from "./support/places.mjs";

const HOSTS = {
  "token-plan cn": "token-plan.cn-beijing.maas.aliyuncs.com",
  "token-plan intl": "token-plan.ap-southeast-1.maas.aliyuncs.com",
  "coding-plan cn": "coding.dashscope.aliyuncs.com",
  "coding-plan intl": "coding-intl.dashscope.aliyuncs.com",
  "dashscope cn": "dashscope.aliyuncs.com",
  "dashscope intl": "dashscope-intl.aliyuncs.com",
  "dashscope us": "dashscope-us.aliyuncs.com",
  "dashscope hk": "cn-hongkong.dashscope.aliyuncs.com",
};
const WORKSPACE = "ws-1.eu-central-1.maas.aliyuncs.com";
const AGENT = { "content-type": "application/json", "user-agent": "opencode/1.18.33" };
const HEX = "0123456789abcdef0123456789abcdef";

const hostsOf = (names) => names.map((name) => HOSTS[name]);
/** The order in which endpoints are asked about a subscription key, and about a plain one. */
const SUBSCRIPTIONS = hostsOf(["token-plan cn", "token-plan intl", "coding-plan cn", "coding-plan intl"]);
const PLAIN = hostsOf([
  "dashscope cn",
  "dashscope intl",
  "token-plan intl",
  "dashscope us",
  "dashscope hk",
  "token-plan cn",
  "coding-plan cn",
  "coding-plan intl",
]);

async function setUp(t) {
  const places = await startPlaces(t);
  const { client, events } = startClient(t, { env: places.env });
  const chats = () => places.server.seen("chat").map(({ headers }) => headers.host ?? headers[":authority"]);
  return { ...places, client, events, chats };
}

describe("the place of a key", { skip: withoutOpenssl }, () => {
  test("a key is found and used, and no endpoint is asked after the first success", async (t) => {
    const { server, client, events, chats } = await setUp(t);
    for (const [name, host] of Object.entries(HOSTS)) {
      const [plan, region] = name.split(" ");
      for (const prefix of plan === "dashscope" ? ["sk-"] : ["sk-sp-", "sk-"]) {
        server.reset();
        const key = server.addKey({ plan, region, key: `${prefix}${plan.length}${region}${HEX}` });
        const order = prefix === "sk-" ? PLAIN : SUBSCRIPTIONS;
        // Coding Plan doesn't tell unknown programs whether a key is good, so the others are asked too.
        const asked = plan === "coding-plan" ? order : order.slice(0, order.indexOf(host) + 1);
        const account = await client.addApiKey({ key });
        assert.deepEqual([account.plan, account.region], [plan, region]);
        assert.deepEqual(chats(), asked);
        await client.setActiveAccount(account.id);
        const body = { model: "qwen3.7-plus" };
        assert.equal((await chat(client, "hi", body, { headers: AGENT })).status, 200);
        assert.deepEqual(server.seen("chat").at(-1).place, { plan, region });
        assert.deepEqual(server.violations, []);
      }
    }
    assert.deepEqual(
      events.filter(({ type }) => type === "config"),
      [],
    );
  });

  test("a key of another plan or region is refused with the right one", async (t) => {
    const { server, client } = await setUp(t);
    const subscription = server.addKey({ plan: "token-plan", region: "intl", key: `sk-sp-${HEX}` });
    const metered = server.addKey({ plan: "dashscope", region: "hk" });
    const wrong = async (options, advice) => {
      const { message } = await rejection(client.addApiKey(options), "ERR_QWEN_INVALID_ARGUMENT");
      assert.match(message, advice);
    };
    await wrong({ key: subscription, region: "cn" }, /with plan token-plan and region intl/);
    await wrong({ key: metered, plan: "token-plan" }, /with plan dashscope and region hk/);
    assert.deepEqual(await client.accounts(), []);
    server.revokeAccess(subscription);
    const refused = await rejection(client.addApiKey({ key: subscription }), "ERR_QWEN_TOKEN_REJECTED");
    assert.match(refused.message, /by Token Plan \(cn, intl\), Coding Plan \(cn, intl\)\..*--base-url/);
    for (const page of [/bailian\.console\.aliyun\.com\S*tab=plan/, /modelstudio\.console\S*tab=coding-plan/])
      assert.match(refused.message, page);
  });

  test("a silent endpoint does not stop the search", async (t) => {
    const { server, client, chats } = await setUp(t);
    const key = server.addKey({ plan: "token-plan", region: "intl", key: `sk-sp-${HEX}` });
    const isSilent = ({ headers }) => headers.host === HOSTS["token-plan cn"];
    server.script("chat", [{ do: "hang", match: isSilent, anyone: true, times: Infinity }]);
    assert.equal((await client.addApiKey({ key })).region, "intl");
    assert.deepEqual(chats(), SUBSCRIPTIONS.slice(0, 2));
    // If no endpoint accepts it, the silent one may be the right one.
    const error = await rejection(client.addApiKey({ key: `sk-sp-1${HEX}` }), "ERR_QWEN_TIMEOUT", {
      retryable: true,
    });
    assert.match(error.message, /token-plan\.cn-beijing/);
    assert.deepEqual(chats().slice(2), SUBSCRIPTIONS);
  });

  test("other makers' keys and invalid texts are sent nowhere", async (t) => {
    const { client, asked, home } = await setUp(t);
    const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
    // The core's tests have the other makers.
    const others = [`sk-ant-${HEX}`, `github_pat_${HEX}`, jwt, `LTAI${HEX}`, `hunter${HEX}`];
    for (const key of [...others, "", "sk-sp-****cdef", "sk-xxxx"]) {
      for (const options of [{}, { plan: "token-plan", region: "cn" }, { baseUrl: `https://${WORKSPACE}` }]) {
        const error = await rejection(client.addApiKey({ key, ...options }), "ERR_QWEN_INVALID_ARGUMENT");
        assert.ok(!error.message.includes(HEX.slice(0, 8)) && !error.message.includes("cdef"), error.message);
      }
    }
    assert.deepEqual(asked, []);
    assert.throws(() => home.files(), { code: "ENOENT" });
  });
});
