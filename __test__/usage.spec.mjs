import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { RUNTIMES, startChild } from "./support/child.mjs";
import { chat, qwen, rejection, setUp } from "./support/harness.mjs";
import { SECRET_PREFIX } from "./support/qwen-server.mjs";

const FILE = "opencode_qwen_usage.json";
const STREAMED = { stream: true, stream_options: { include_usage: true } };
const NOTHING = { requests: 0, withoutUsage: 0, inputTokens: 0, cachedTokens: 0, outputTokens: 0 };

/** The usage that the answers report, streamed or not. */
async function reported(responses) {
  const sum = { ...NOTHING };
  for (const response of responses) {
    const text = await response.text();
    const documents = text.startsWith("data:")
      ? text.match(/(?<=^data: )\{.*/gm).map((line) => JSON.parse(line))
      : [JSON.parse(text)];
    const usage = documents.map((document) => document.usage).findLast(Boolean);
    sum.requests += 1;
    sum.withoutUsage += usage ? 0 : 1;
    sum.inputTokens += usage?.prompt_tokens ?? 0;
    sum.cachedTokens += usage?.prompt_tokens_details.cached_tokens ?? 0;
    sum.outputTokens += usage?.completion_tokens ?? 0;
  }
  return sum;
}

test("usage is counted from the answers, by hour and by day", async (t) => {
  const { client, home, events, settings } = await setUp(t);
  const [before] = await client.usage();
  assert.deepEqual(before.today, NOTHING);
  assert.deepEqual([before.hours, before.days], [[], []]);
  const system = { messages: [{ role: "system", content: "be brief ".repeat(200) }] };
  const expected = await reported([
    await chat(client, "hello"),
    await chat(client, "hello there", STREAMED),
    await chat(client, "how are you", { stream: true }),
    await chat(client, "", system),
    await chat(client, "", { ...system, ...STREAMED }),
  ]);
  assert.ok(expected.cachedTokens > 0 && expected.withoutUsage === 1, JSON.stringify(expected));
  const [account] = await client.accounts();
  const [usage, ...others] = await client.usage();
  assert.deepEqual(others, []);
  const { accountId, label, hours, days, ...windows } = usage;
  assert.deepEqual([accountId, label], [account.id, account.label]);
  const names = ["hour", "fiveHours", "today", "week", "month"];
  assert.deepEqual(Object.keys(windows), names);
  // The hour or the day may change during a test.
  const summed = (rows) => {
    const sums = { ...NOTHING };
    for (const row of rows) for (const name of Object.keys(sums)) sums[name] += row[name];
    return sums;
  };
  assert.deepEqual(windows.month, expected);
  assert.deepEqual(summed(hours), expected);
  assert.deepEqual(summed(days), expected);
  assert.ok(hours.every(({ at }) => at % 3_600_000 === 0 && Math.abs(at - Date.now()) < 2 * 3_600_000));
  const now = new Date();
  const local = [now.getFullYear(), now.getMonth() + 1, now.getDate()].map((part) =>
    String(part).padStart(2, "0"),
  );
  assert.equal(days.at(-1).date, local.join("-"));

  const path = join(home.directory, FILE);
  const contents = readFileSync(path, "utf8");
  for (const secret of [SECRET_PREFIX, "hello", "brief"]) assert.ok(!contents.includes(secret), contents);
  assert.deepEqual([...new Set(contents.match(/qwen-cli|acct_\w+/g))], [account.id]);
  if (process.platform !== "win32") assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.deepEqual(events, []);

  const other = qwen.createClient(settings);
  assert.deepEqual((await other.usage())[0].month, expected);
  other.close();
  await rejection(other.usage(), "ERR_QWEN_INVALID_ARGUMENT");
});

test("a process writes its counts before it ends, however it ends", async (t) => {
  const { server, home, client } = await setUp(t);
  const endings = ["", "close", "exit"];
  for (const runtime of Object.keys(RUNTIMES)) {
    const children = endings.map((ending) =>
      startChild(
        t,
        runtime,
        async ({ load, ask, data: { ending, ...settings } }) => {
          const client = (await load()).createClient(settings);
          const fields = { stream: true, stream_options: { include_usage: true } };
          const answers = await Promise.all([ask(client, "hello"), ask(client, "hello", fields)]);
          for (const answer of answers) await answer.text();
          if (ending === "close") client.close();
          if (ending === "exit") process.exit();
        },
        { data: { env: home.env, oauth: { baseUrl: server.url }, ending } },
      ),
    );
    for (const child of children) await child.end();
  }
  const [{ month }] = await client.usage();
  const requests = 2 * endings.length * Object.keys(RUNTIMES).length;
  assert.deepEqual([month.requests, month.withoutUsage], [requests, 0]);
});
