import assert from "node:assert/strict";
import { test } from "node:test";
import { RUNTIMES, startChild } from "./support/child.mjs";
import { midway } from "./support/harness.mjs";

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
    await server.waitFor("token");
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
}
