import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { makeCertificates, withoutOpenssl } from "./support/certificates.mjs";
import { chat, EXPIRED, rejection, setUp, startClient } from "./support/harness.mjs";
import { startHttpProxy, startSocksProxy } from "./support/proxies.mjs";

const DEAD = "http://127.0.0.1:9";
const answers = async (client) => (await (await chat(client, "hi")).json()).choices[0].message.content;

test("an HTTP proxy of the environment map is used, for OAuth too", async (t) => {
  const proxy = await startHttpProxy(t);
  for (const name of ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]) {
    const { server, client } = await setUp(t, { token: EXPIRED, env: { [name]: proxy.url } });
    assert.equal(await answers(client), "You said: hi");
    assert.deepEqual(proxy.seen.splice(0), [
      { method: "POST", target: `${server.url}/api/v1/oauth2/token` },
      { method: "POST", target: `${server.apiBaseUrl}/chat/completions` },
    ]);
  }
});

test("a proxy's password reaches the proxy alone", async (t) => {
  const proxy = await startHttpProxy(t, { credentials: "user:hunter2" });
  const { server, client } = await setUp(t, { env: { HTTP_PROXY: proxy.url } });
  assert.equal(await answers(client), "You said: hi");
  assert.equal(server.seen("chat")[0].headers["proxy-authorization"], undefined);
});

test("a SOCKS5 proxy is used", async (t) => {
  const proxy = await startSocksProxy(t);
  const { server, client } = await setUp(t, { env: { ALL_PROXY: proxy.url } });
  assert.equal(await answers(client), "You said: hi");
  assert.deepEqual(proxy.seen, [{ method: "SOCKS5", target: `127.0.0.1:${server.port}` }]);
});

test("NO_PROXY leaves hosts out", async (t) => {
  for (const NO_PROXY of ["127.0.0.1", "example.com, 127.0.0.0/8"]) {
    const { client } = await setUp(t, { env: { HTTP_PROXY: DEAD, HTTPS_PROXY: DEAD, NO_PROXY } });
    assert.equal(await answers(client), "You said: hi", NO_PROXY);
  }
  const { client } = await setUp(t, { env: { http_proxy: DEAD, no_proxy: "127.0.0.1" } });
  assert.equal(await answers(client), "You said: hi");
  const { client: blocked } = await setUp(t, { env: { HTTP_PROXY: DEAD, NO_PROXY: "example.com" } });
  await rejection(chat(blocked, "hi"), "ERR_QWEN_NETWORK");
});

test("NO_PROXY=* leaves all hosts out", async (t) => {
  const { client } = await setUp(t, { env: { HTTP_PROXY: DEAD, NO_PROXY: "*" } });
  assert.equal(await answers(client), "You said: hi");
});

test("the process's own variables don't count where a map is given", async (t) => {
  const names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"];
  t.after(() => names.forEach((name) => delete process.env[name]));
  for (const name of names) process.env[name] = DEAD;
  const { client } = await setUp(t);
  assert.equal(await answers(client), "You said: hi");
});

test("a variable that is no proxy is named, but not repeated", async (t) => {
  for (const value of ["gopher://user:hunter2@proxy", "http://", "http://us er@:x:y"]) {
    try {
      startClient(t, { env: { HOME: "/nowhere", HTTPS_PROXY: value } });
      assert.fail(`${value} was taken`);
    } catch (error) {
      assert.equal(error.code, "ERR_QWEN_INVALID_CONFIG", error.stack);
      assert.match(error.message, /HTTPS_PROXY/);
      assert.doesNotMatch(error.message, /hunter2/);
    }
  }
});

test("a proxy that refuses the way once is asked once more", { skip: withoutOpenssl }, async (t) => {
  const { caPath, tls } = makeCertificates(t);
  const env = (proxy) => ({ HTTPS_PROXY: proxy.url, NODE_EXTRA_CA_CERTS: caPath });
  const flaky = await startHttpProxy(t, { refusals: 1 });
  const { client, events } = await setUp(t, { server: { tls }, env: env(flaky) });
  assert.equal(await answers(client), "You said: hi");
  assert.deepEqual(
    events.map(({ type }) => type),
    ["retry"],
  );
  const broken = await startHttpProxy(t, { refusals: Infinity });
  const { client: stuck } = await setUp(t, { server: { tls }, env: env(broken) });
  await rejection(chat(stuck, "hi"), "ERR_QWEN_NETWORK", { retryable: true });
  assert.equal(broken.seen.length, 2);
});

test("https with roots of the environment, HTTP/2 included", { skip: withoutOpenssl }, async (t) => {
  const { caPath, tls } = makeCertificates(t);
  for (const [variable, options, version] of [
    ["NODE_EXTRA_CA_CERTS", {}, "1.1"],
    ["SSL_CERT_FILE", {}, "1.1"],
    ["NODE_EXTRA_CA_CERTS", { http2: true }, "2.0"],
    ["SSL_CERT_FILE", { host: "localhost", http2: true }, "2.0"],
  ]) {
    const { server, client } = await setUp(t, {
      server: { tls, ...options },
      token: EXPIRED,
      env: { [variable]: caPath },
    });
    assert.equal(await answers(client), "You said: hi");
    assert.deepEqual(
      server.requests.map(({ httpVersion }) => httpVersion),
      [version, version],
    );
  }
});

test("parallel requests share one HTTP/2 connection", { skip: withoutOpenssl }, async (t) => {
  const { caPath, tls } = makeCertificates(t);
  const { server, client } = await setUp(t, {
    server: { tls, http2: true },
    env: { NODE_EXTRA_CA_CERTS: caPath },
  });
  await answers(client);
  assert.equal((await Promise.all(Array.from({ length: 20 }, () => answers(client)))).length, 20);
  assert.equal(server.stats.connections, 1);
});

test("https through a proxy and through SOCKS5 is end to end", { skip: withoutOpenssl }, async (t) => {
  const { caPath, tls } = makeCertificates(t);
  const proxies = [
    ["HTTPS_PROXY", await startHttpProxy(t), "CONNECT"],
    ["https_proxy", await startHttpProxy(t, { credentials: "u:p" }), "CONNECT"],
    ["ALL_PROXY", await startSocksProxy(t), "SOCKS5"],
  ];
  for (const [variable, proxy, method] of proxies) {
    const env = { [variable]: proxy.url, NODE_EXTRA_CA_CERTS: caPath };
    const { server, client } = await setUp(t, { server: { tls }, env });
    assert.equal(await answers(client), "You said: hi");
    assert.deepEqual(proxy.seen, [{ method, target: `127.0.0.1:${server.port}` }]);
  }
});

test(
  "a certificate that nobody vouches for is refused, and nothing is sent",
  { skip: withoutOpenssl },
  async (t) => {
    const { caPath, tls } = makeCertificates(t);
    const { caPath: anotherCa } = makeCertificates(t);
    t.after(() => delete process.env.NODE_EXTRA_CA_CERTS);
    process.env.NODE_EXTRA_CA_CERTS = caPath;
    for (const env of [{}, { SSL_CERT_FILE: anotherCa }]) {
      const { server, client } = await setUp(t, { server: { tls }, env });
      const error = await rejection(chat(client, "hi"), "ERR_QWEN_NETWORK");
      assert.match(error.message, /certificate/);
      assert.equal(server.stats.requests, 0);
    }
  },
);

test("a file of certificates that is none is told, by name", async (t) => {
  for (const variable of ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"]) {
    const { home, client, settings } = await setUp(t, { env: { [variable]: "/nowhere/ca.pem" } });
    const error = await rejection(chat(client, "hi"), "ERR_QWEN_INVALID_CONFIG", { path: "/nowhere/ca.pem" });
    assert.match(error.message, new RegExp(variable));
    const path = join(home.home, "ca.pem");
    writeFileSync(path, "no certificate");
    const { client: other } = startClient(t, { ...settings, env: { ...home.env, [variable]: path } });
    await rejection(chat(other, "hi"), "ERR_QWEN_INVALID_CONFIG", { path });
  }
});

test("a server that can't be reached is told, and tried twice", async (t) => {
  const { server, client, events } = await setUp(t);
  await server.close();
  const error = await rejection(chat(client, "hi"), "ERR_QWEN_NETWORK", { retryable: true });
  assert.match(error.message, /127\.0\.0\.1/);
  assert.deepEqual(
    events.map(({ type }) => type),
    ["retry"],
  );
});

test("a broken exchange is told, and never repeated", async (t) => {
  const { server, client } = await setUp(t);
  for (const step of ["reset", "close", "garbage"]) {
    server.script("chat", [step]);
    const before = server.stats.chats;
    await rejection(chat(client, "hi"), "ERR_QWEN_NETWORK", { retryable: true });
    assert.equal(server.stats.chats - before, 1, step);
  }
});
