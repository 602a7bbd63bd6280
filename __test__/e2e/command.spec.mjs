// The command /qwen shows the accounts and sends nothing to a model.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { CURRENT, openHost, suite } from "./support/opencode.mjs";

const INVOCATION = { command: "qwen", arguments: "", model: "qwen-code/coder-model", agent: "build" };

/** Runs the command in a conversation. Returns the screen, and the number of model requests for it. */
async function command(host) {
  const service = await host.serve();
  await service.listen();
  const { session, answer } = await service.prompt("hello");
  await answer;
  await service.waitForIdle(session);
  const asked = host.server.seen("chat").length;
  await service.request(`/session/${session.id}/command`, INVOCATION);
  return { service, asked: () => host.server.seen("chat").length - asked };
}

for (const version of [CURRENT, "1.1.65", "1.3.2"]) {
  describe(`/qwen in OpenCode ${version}`, suite(version), () => {
    test("shows each account and its usage, and asks no model", async (t) => {
      const host = await openHost(t, { version });
      const { service, asked } = await command(host);
      const { properties } = await service.waitForToast(/^\* Account 1: ready\n/);
      assert.match(
        properties.message,
        /\ntoday [12] requests?, \S+ tokens, \d+ % cached\nlast 5 h [12] requests?, /,
      );
      assert.equal(properties.variant, "info");
      assert.equal(asked(), 0);
    });
  });
}

describe("/qwen", suite(), () => {
  test("says how to log in if there is no account", async (t) => {
    const host = await openHost(t, { login: false });
    const service = await host.serve();
    await service.listen();
    const { body: session } = await service.request("/session", { title: "a title" });
    await service.request(`/session/${session.id}/command`, INVOCATION);
    await service.waitForToast(/^There is no account\. Log in with `opencode auth login`\.$/);
    assert.deepEqual(host.server.requests, []);
  });

  test("gives way to the user's own command", async (t) => {
    const own = { template: "SAY 3", description: "mine" };
    const host = await openHost(t, { config: { command: { qwen: own } } });
    const { asked } = await command(host);
    assert.ok(asked() > 0);
    assert.ok(JSON.stringify(host.server.seen("chat").at(-1).body.messages).includes(own.template));
  });
});
