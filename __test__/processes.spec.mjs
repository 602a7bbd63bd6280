import assert from "node:assert/strict";
import { join } from "node:path";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { RUNTIMES, startChild } from "./support/child.mjs";
import { EXPIRED, midway, setUp, until } from "./support/harness.mjs";

for (const runtime of Object.keys(RUNTIMES)) {
  test(`${runtime}: a process ends only when the token is written, even if its caller gave up`, async (t) => {
    const set = await midway(t);
    const { server, home, open } = set;
    const old = home.read();
    const child = startChild(
      t,
      runtime,
      async ({ load, report, told, data }) => {
        const client = (await load()).createClient(data);
        const controller = new AbortController();
        const asked = client.getAccessToken({ signal: controller.signal }).catch((error) => error.name);
        await told();
        controller.abort();
        report(await asked);
      },
      { data: set.settings },
    );
    await server.waitFor("token", { timeoutMs: 20_000 });
    child.tell();
    assert.equal(await child.report(), "AbortError");
    assert.equal(home.read().access_token, old.access_token);
    setTimeout(open, 300);
    await child.end();
    assert.notEqual(home.read().access_token, old.access_token);
    assert.ok(server.issued.includes(home.read().refresh_token));
    assert.equal(server.stats.redemptions, 1);
    assert.deepEqual(home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
  });

  test(`${runtime}: a process that is killed during a refresh blocks no other`, async (t) => {
    const set = await setUp(t, { server: { replay: "accept" }, token: EXPIRED });
    const { server, home, client } = set;
    server.script("token", ["hang"]);
    const child = startChild(
      t,
      runtime,
      async ({ load, data }) => {
        await (await load()).createClient(data).getAccessToken();
      },
      { data: set.settings },
    );
    await server.waitFor("token", { timeoutMs: 20_000 });
    assert.ok(existsSync(join(home.directory, "oauth_creds.lock")));
    const before = home.bytes();
    child.kill("SIGKILL");
    await server.waitFor((entry) => entry.closedByClient);
    assert.deepEqual(home.bytes(), before);
    const { accessToken } = await client.getAccessToken();
    assert.equal(home.read().access_token, accessToken);
    assert.deepEqual(home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
  });
}

test("a process waits for another's refresh, and takes its token", async (t) => {
  const set = await midway(t);
  const { server, client, open } = set;
  const ours = client.getAccessToken();
  await server.waitFor("token");
  const child = startChild(
    t,
    "node",
    async ({ load, report, data }) => {
      const client = (await load()).createClient(data);
      const asked = client.getAccessToken();
      report("asked");
      report((await asked).accessToken);
    },
    { data: set.settings },
  );
  await child.report();
  open();
  const { accessToken } = await ours;
  assert.equal((await child.end())[1], accessToken);
  assert.equal(server.stats.redemptions, 1);
  await until(() => set.home.files().length === 2, "the lock is released");
});
