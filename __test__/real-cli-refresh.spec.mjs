/** The real qwen CLI and the package, with the same credentials. */

import assert from "node:assert/strict";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { startChild } from "./support/child.mjs";
import { EXPIRED, gate, setUp, sleep, until } from "./support/harness.mjs";
import { chooseOAuth, isFromCli, skipReason, startCli, VERSIONS } from "./support/real-cli.mjs";

const LONG = Boolean(process.env.TEST_STRESS);
const START_MS = 60_000;

async function setUpBoth(t, options) {
  const set = await setUp(t, { token: EXPIRED, ...options });
  chooseOAuth(set.home);
  return { ...set, lock: join(set.home.directory, "oauth_creds.lock") };
}

/** Holds the answers to token requests until it is opened. The tokens are already spent. */
function holdAnswers(t, server) {
  const { open, step } = gate();
  server.script("token", [{ ...step, times: Infinity }]);
  t.after(() => open());
  return () => {
    open();
    server.clearScripts("token");
  };
}

/** Says when a file was made, or undefined if it is gone. */
const birthOf = (path) => statSync(path, { bigint: true, throwIfNoEntry: false })?.birthtimeNs;

const requestOf = (server, count) => server.waitFor("token", { timeoutMs: START_MS, count });

function expire(home) {
  home.write({ ...home.read(), expiry_date: Date.now() - 60_000 });
}

/** Checks that no token was refused, which would log the user out. */
function assertNobodyLost({ server, home, events }, redemptions) {
  const { refreshes, redemptions: granted, doubleRedemptions } = server.stats;
  assert.deepEqual(
    { refreshes, granted, doubleRedemptions },
    { refreshes: redemptions, granted: redemptions, doubleRedemptions: 0 },
  );
  assert.deepEqual(
    events.filter(({ type }) => type === "needs-login"),
    [],
  );
  assert.ok(server.issued.includes(home.read().refresh_token));
}

for (const [version, cli] of Object.entries(VERSIONS)) {
  const isOld = version.startsWith("0.15");
  const skip = !LONG && !isOld && "done with the older version; npm run test:stress does it with both";

  describe(`qwen ${version} next door`, { skip: skipReason(cli), concurrency: 1 }, () => {
    test("the second process waits for the lock's holder and takes its token", async (t) => {
      const set = await setUpBoth(t);
      const { server, home, client, lock } = set;

      // The CLI is first.
      let open = holdAnswers(t, server);
      const first = startCli(t, cli, set);
      assert.ok(isFromCli(await requestOf(server, 1)));
      assert.ok(existsSync(lock));
      const ours = client.getAccessToken();
      await sleep(500);
      assert.equal(server.stats.tokenRequests, 1);
      open();
      assert.equal((await ours).accessToken, home.read().access_token);
      assert.equal(await first.session, "ready");
      assertNobodyLost(set, 1);

      // Our process is first, a second CLI waits for it, and the first CLI's exit removes our lock.
      expire(home);
      open = holdAnswers(t, server);
      const again = client.getAccessToken();
      assert.ok(!isFromCli(await requestOf(server, 2)));
      const second = startCli(t, cli, set);
      const waits = sleep(LONG ? 8000 : 3000).then(() => "waits");
      const started = await Promise.race([second.session, waits]);
      assert.equal(started, "waits");
      const held = existsSync(lock);
      await first.exit();
      await until(() => existsSync(lock), "the lock is taken again");
      assert.ok(held);
      await sleep(500);
      assert.equal(server.stats.tokenRequests, 2);
      open();
      assert.equal((await again).accessToken, home.read().access_token);
      assert.equal(await second.session, "ready");
      await second.exit("SIGTERM");
      assertNobodyLost(set, 2);
      assert.ok(!existsSync(lock));
    });

    /** A CLI redeems, and the exit of another CLI removes its lock. */
    async function unguardedCli(t) {
      const set = await setUpBoth(t, { token: {} });
      const { server, home } = set;
      const exiting = startCli(t, cli, set);
      assert.equal(await exiting.session, "ready");
      expire(home);
      const open = holdAnswers(t, server);
      const redeeming = startCli(t, cli, set);
      assert.ok(isFromCli(await requestOf(server, 1)));
      return { ...set, exiting, redeeming, open };
    }

    test("a CLI whose lock another CLI's exit removed is not disturbed", { skip }, async (t) => {
      const set = await unguardedCli(t);
      const made = birthOf(set.lock);
      assert.ok(made);
      const asked = set.client.getAccessToken();
      await sleep(300);
      set.exiting.exit();
      // We may make it again at once. The CLI's process lasts longer, and we wait 2 s for the other CLI.
      await until(() => birthOf(set.lock) !== made, "the lock is removed", START_MS);
      await sleep(500);
      assert.equal(set.server.stats.tokenRequests, 1);
      set.open();
      assert.equal((await asked).accessToken, set.home.read().access_token);
      assert.equal(await set.redeeming.session, "ready");
      assertNobodyLost(set, 1);
    });

    test("a CLI in place of the package loses the login", { skip }, async (t) => {
      const set = await unguardedCli(t);
      await set.exiting.exit();
      startCli(t, cli, set);
      // It offers the token that is being redeemed, is refused, and removes the file.
      await requestOf(set.server, 2);
      set.open();
      await until(() => set.server.stats.doubleRedemptions > 0, "a token is redeemed twice", START_MS);
    });

    test("both refresh repeatedly", { skip: !LONG && "takes minutes; npm run test:stress" }, async (t) => {
      const set = await setUpBoth(t, { server: { expiresIn: 31 } });
      const { server, home, settings } = set;
      server.script("token", [{ do: "delay", ms: () => 100 + Math.random() * 400, times: Infinity }]);
      const end = Date.now() + 120_000;
      const ours = ["node", "node", "bun"].map((runtime) =>
        startChild(
          t,
          runtime,
          async ({ load, report, data: { end, settings } }) => {
            const client = (await load()).createClient(settings);
            let answers = 0;
            while (Date.now() < end) {
              await client.getAccessToken();
              answers += 1;
              // With pauses, so that the CLI also finds expired tokens.
              await new Promise((resolve) => setTimeout(resolve, Math.random() * 6000));
            }
            report(answers);
          },
          { data: { end, settings } },
        ),
      );
      const exits = ["end of input", "SIGTERM", "SIGINT"];
      let starts = 0;
      while (Date.now() < end) {
        const cliAtWork = startCli(t, cli, set);
        await Promise.race([cliAtWork.session, sleep(START_MS)]);
        await cliAtWork.exit(exits[starts % exits.length]);
        assert.ok(existsSync(home.path), `the login is gone after start ${starts}`);
        starts += 1;
      }
      const answers = await Promise.all(ours.map(async (child) => (await child.end(START_MS))[0]));
      const requests = server.seen("token");
      const theirs = requests.filter(isFromCli).length;
      assertNobodyLost(set, requests.length);
      assert.ok(theirs > 0 && theirs < requests.length, `${theirs} of ${requests.length} are the CLI's`);
      const total = answers.reduce((sum, count) => sum + count, 0);
      t.diagnostic(
        `${starts} starts of the CLI and ${theirs} redemptions; ${requests.length - theirs} redemptions of ours, ${total} answers`,
      );
    });
  });
}
