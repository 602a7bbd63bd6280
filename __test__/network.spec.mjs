import assert from "node:assert/strict";
import { test } from "node:test";
import { makeCertificates, withoutOpenssl } from "./support/certificates.mjs";
import { chat, rejection, setUp, startClient } from "./support/harness.mjs";

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
