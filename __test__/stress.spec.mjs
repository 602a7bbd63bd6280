/**
 * Many real processes with one user's files. `npm test` runs a short form, and `npm run test:stress` (TEST_STRESS=1) the
 * long one, whose figures are in RELIABILITY.md.
 */

import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { NAMES, setUpAccounts } from "./support/accounts.mjs";
import { RUNTIMES, startChild } from "./support/child.mjs";
import { EXPIRED, setUp } from "./support/harness.mjs";

const LONG = Boolean(process.env.TEST_STRESS);
/** Duration of the last test's load. */
const LOAD_MS = LONG ? 180_000 : 7000;
/** Time limit for the start and the end of the processes. */
const WAIT_MS = LOAD_MS + (LONG ? 120_000 : 60_000);

/** Every fifth process runs in Bun, if it is installed. */
const runtimeOf = (index) => (index % 5 === 0 && RUNTIMES.bun ? "bun" : "node");

/** Starts processes that read the files, and then run the rest of `body` all at once. Returns each one's second report. */
async function atOnce(t, count, body, dataOf) {
  const children = Array.from({ length: count }, (_, index) =>
    startChild(t, runtimeOf(index), body, { data: dataOf(index) }),
  );
  await Promise.all(children.map((child) => child.report(0, WAIT_MS)));
  for (const child of children) child.tell();
  return Promise.all(children.map(async (child) => (await child.end(WAIT_MS))[1]));
}

async function askOnce({ load, report, told, data: { accountId, ...options } }) {
  const client = (await load()).createClient(options);
  await client.accounts();
  report("ready");
  await told();
  report((await client.getAccessToken({ accountId })).accessToken);
}

function assertRedeemed({ refreshes, redemptions, doubleRedemptions, replays }, count) {
  assert.deepEqual(
    { refreshes, redemptions, doubleRedemptions, replays },
    { refreshes: count, redemptions: count, doubleRedemptions: 0, replays: 0 },
  );
}

const PROCESSES = LONG ? 80 : 20;

test(`${PROCESSES} processes that find the token expired at once redeem it once`, async (t) => {
  const { server, home } = await setUp(t, { token: EXPIRED });
  // Long enough for all of them to find the lock taken.
  server.script("token", [{ do: "delay", ms: LONG ? 1000 : 300 }]);
  const data = { env: home.env, oauth: { baseUrl: server.url } };
  const answers = await atOnce(t, PROCESSES, askOnce, () => data);
  assertRedeemed(server.stats, 1);
  assert.equal(answers.length, PROCESSES);
  assert.deepEqual([...new Set(answers)], [home.read().access_token]);
  assert.deepEqual(home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
  assert.equal(statSync(join(home.directory, "oauth_creds.flock")).size, 0);
});

const PER_ACCOUNT = LONG ? 30 : 4;

test(`three accounts, and ${PER_ACCOUNT} processes for each, redeem three tokens`, async (t) => {
  const tokens = Object.fromEntries(NAMES.map((name) => [name, EXPIRED]));
  const { all, home, store, settings } = await setUpAccounts(t, { shared: true, tokens });
  const [server] = all;
  server.script("token", [{ do: "delay", ms: 300, times: Infinity }]);
  const accountOf = (index) => `id-${NAMES[index % NAMES.length]}`;
  const data = (index) => ({ ...settings, accountId: accountOf(index) });
  const answers = await atOnce(t, PER_ACCOUNT * NAMES.length, askOnce, data);
  assertRedeemed(server.stats, NAMES.length);
  for (const { id, token } of store.read().accounts) {
    const own = answers.filter((_, index) => accountOf(index) === id);
    assert.equal(own.length, PER_ACCOUNT);
    assert.deepEqual([...new Set(own)], [token.access_token]);
  }
  const names = ["oauth_accounts.flock", "oauth_accounts.json", "oauth_creds.flock", "oauth_creds.json"];
  assert.deepEqual(home.files(), names);
});

const WORKERS = LONG ? 12 : 5;

test(`tokens that live for 32 s, under load for ${LOAD_MS / 1000} s: a redemption for each expiry`, async (t) => {
  const { server, home } = await setUp(t, { server: { expiresIn: 32 }, token: EXPIRED });
  server.script("token", [{ do: "delay", ms: () => Math.random() * 200, times: Infinity }]);
  const data = { env: home.env, oauth: { baseUrl: server.url }, loadMs: LOAD_MS };
  const reports = await atOnce(
    t,
    WORKERS,
    async ({ load, report, told, data: { loadMs, ...options } }) => {
      const client = (await load()).createClient(options);
      await client.accounts();
      report("ready");
      await told();
      const [end, tokens] = [Date.now() + loadMs, {}];
      let [answers, expired] = [0, 0];
      while (Date.now() < end) {
        const { accessToken, expiresAt } = await client.getAccessToken();
        answers += 1;
        if (expiresAt <= Date.now()) expired += 1;
        tokens[accessToken] = expiresAt;
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 50));
      }
      report({ answers, expired, tokens });
    },
    () => data,
  );
  const { redemptions } = server.stats;
  assertRedeemed(server.stats, redemptions);
  assert.ok(redemptions >= 2, `only ${redemptions} redemptions`);
  assert.equal(
    reports.reduce((sum, { expired }) => sum + expired, 0),
    0,
  );
  // Each redemption was needed: the token before it had at most 30 s left.
  const expiries = Object.values(Object.assign({}, ...reports.map(({ tokens }) => tokens)));
  expiries.sort((one, other) => one - other);
  assert.equal(expiries.length, redemptions);
  const requests = server.seen("token");
  for (const [index, expiresAt] of expiries.slice(0, -1).entries())
    assert.ok(requests[index + 1].at >= expiresAt - 30_000, `redemption ${index + 1} came too early`);
  assert.deepEqual(home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
  const answers = reports.reduce((sum, report) => sum + report.answers, 0);
  t.diagnostic(`${answers} answers of ${WORKERS} processes, ${redemptions} redemptions`);
});
