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

test("the sums of ten processes at once, in Node and in Bun, are exact", async (t) => {
  const set = await setUp(t);
  const { server, home, client } = set;
  const runtimes = Object.keys(RUNTIMES);
  const children = Array.from({ length: 10 }, (_, index) =>
    startChild(
      t,
      runtimes[index % runtimes.length],
      async ({ load, report, told, data: { index, ...settings } }) => {
        const client = (await load()).createClient(settings);
        await client.accounts();
        report("ready");
        await told();
        const one = async (number) => {
          const stream = number % 2 === 0;
          const response = await client.fetch(`${client.baseUrl}/chat/completions`, {
            method: "POST",
            headers: { "content-type": "application/json" },
            body: JSON.stringify({
              model: "coder-model",
              messages: [{ role: "user", content: `${index} says ${number}` }],
              ...(stream && { stream, stream_options: { include_usage: true } }),
            }),
          });
          const text = await response.text();
          const usages = [...text.matchAll(/"prompt_tokens":(\d+),"completion_tokens":(\d+)/g)];
          return usages.map(([, input, output]) => [Number(input), Number(output)]);
        };
        const all = (await Promise.all(Array.from({ length: 15 }, (_, number) => one(number)))).flat();
        const sum = (column) => all.reduce((total, row) => total + row[column], 0);
        report({ requests: all.length, inputTokens: sum(0), outputTokens: sum(1) });
        // They write their counts before they end.
        if (index % 3 === 0) client.close();
        if (index % 3 === 1) process.exit();
      },
      { data: { env: home.env, oauth: { baseUrl: server.url }, index } },
    ),
  );
  await Promise.all(children.map((child) => child.report(0)));
  for (const child of children) child.tell();
  const reports = await Promise.all(children.map(async (child) => (await child.end())[1]));
  const total = (name) => reports.reduce((sum, report) => sum + report[name], 0);
  const [{ month }] = await client.usage();
  assert.equal(total("requests"), 150);
  const { cachedTokens: _, ...counted } = month;
  assert.deepEqual(counted, {
    requests: 150,
    withoutUsage: 0,
    inputTokens: total("inputTokens"),
    outputTokens: total("outputTokens"),
  });
  assert.ok(readFileSync(join(home.directory, FILE)).length < 2_000);
});
