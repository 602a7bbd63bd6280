import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { chat, midway, until } from "./support/harness.mjs";

const LEFT_BEHIND = ["oauth_creds.flock", "oauth_creds.json"];

// Most of them wait for a timer or a retry, so they run together.
describe("the token of a file", { concurrency: true }, () => {
  test("an aborted call does not lose the token", async (t) => {
    const { server, home, client, open } = await midway(t);
    const before = home.bytes();
    const controllers = [new AbortController(), new AbortController()];
    const [asked, requested] = [
      client.getAccessToken({ signal: controllers[0].signal }),
      chat(client, "hi", {}, { signal: controllers[1].signal }),
    ];
    await server.waitFor("token");
    for (const controller of controllers) controller.abort();
    await assert.rejects(asked, { name: "AbortError" });
    await assert.rejects(requested, { name: "AbortError" });
    assert.deepEqual(home.bytes(), before);
    open();
    await until(() => !home.bytes().equals(before), "the token is written");
    const { accessToken } = await client.getAccessToken();
    assert.equal(accessToken, home.read().access_token);
    assert.deepEqual([server.stats.redemptions, server.stats.chats, server.stats.closedByClient], [1, 0, 0]);
  });

  test("a client that is closed during a refresh still writes the token", async (t) => {
    const { server, home, client, open } = await midway(t);
    const before = home.bytes();
    const asked = client.getAccessToken();
    await server.waitFor("token");
    client.close();
    await assert.rejects(asked, { name: "AbortError" });
    open();
    await until(() => !home.bytes().equals(before), "the token is written");
    assert.ok(server.issued.includes(home.read().refresh_token));
    await until(() => home.files().join() === LEFT_BEHIND.join(), "the lock is released");
  });
});
