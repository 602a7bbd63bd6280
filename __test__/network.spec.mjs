import assert from "node:assert/strict";
import { test } from "node:test";
import { makeCertificates, withoutOpenssl } from "./support/certificates.mjs";
import { chat, rejection, setUp, startClient } from "./support/harness.mjs";
import { NAME, startHttpProxy, startSocksProxy } from "./support/proxies.mjs";

const answers = async (client) => (await (await chat(client, "hi")).json()).choices[0].message.content;

test("an environment map replaces the process's own variables", { skip: withoutOpenssl }, async (t) => {
  const { caPath, tls } = makeCertificates(t);
  t.after(() => delete process.env.NODE_EXTRA_CA_CERTS);
  process.env.NODE_EXTRA_CA_CERTS = caPath;
  const { server, client, settings } = await setUp(t, { server: { tls } });
  const error = await rejection(chat(client, "hi"), "ERR_QWEN_NETWORK");
  assert.match(error.message, /certificate/);
  assert.equal(server.stats.requests, 0);
  const env = { ...settings.env, NODE_EXTRA_CA_CERTS: caPath };
  assert.equal(await answers(startClient(t, { ...settings, env }).client), "You said: hi");
});

/** A client of a server whose name only a proxy can resolve. */
async function behind(t, variables) {
  const { caPath, tls } = makeCertificates(t, [NAME]);
  const { server, home } = await setUp(t, { server: { tls } });
  const base = `https://${NAME}:${server.port}`;
  const env = {
    ...home.env,
    NODE_EXTRA_CA_CERTS: caPath,
    OPENCODE_QWEN_BASE_URL: `${base}/v1`,
    ...variables,
  };
  return { server, target: `${NAME}:${server.port}`, ...startClient(t, { env, oauth: { baseUrl: base } }) };
}

test("a proxy that refuses a tunnel once is asked once more", { skip: withoutOpenssl }, async (t) => {
  const flaky = await startHttpProxy(t, { refusals: 1 });
  const { client, events } = await behind(t, { HTTPS_PROXY: flaky.url });
  assert.equal(await answers(client), "You said: hi");
  assert.deepEqual(
    events.map(({ type }) => type),
    ["retry"],
  );
  const broken = await startHttpProxy(t, { refusals: Infinity });
  const { client: stuck } = await behind(t, { HTTPS_PROXY: broken.url });
  await rejection(chat(stuck, "hi"), "ERR_QWEN_NETWORK", { retryable: true });
  assert.equal(broken.seen.length, 2);
});

test("https through an HTTP proxy and through SOCKS5 is end to end", { skip: withoutOpenssl }, async (t) => {
  const socks = await startSocksProxy(t);
  const proxies = [
    ["HTTPS_PROXY", await startHttpProxy(t), "CONNECT"],
    ["https_proxy", await startHttpProxy(t, { credentials: "u:p" }), "CONNECT"],
    // In the form that GNOME exports.
    ["all_proxy", { ...socks, url: socks.url.replace("socks5:", "socks:") }, "SOCKS5"],
  ];
  for (const [variable, proxy, method] of proxies) {
    const { server, client, target } = await behind(t, { [variable]: proxy.url });
    assert.equal(await answers(client), "You said: hi");
    assert.deepEqual(proxy.seen, [{ method, target }]);
    assert.equal(server.seen("chat")[0].headers["proxy-authorization"], undefined);
  }
});
