// Measures if unchanged files are read again and if changes are noticed.
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { figures } from "./turns.mjs";
import { startContender } from "./workers.mjs";

/**
 * Counts the system calls on the accounts' files over many requests with strace, while the files stay the same. Then
 * changes the token on disk and checks that the next request uses the new one.
 */
export async function measureLookups({ runtime, server, add }) {
  const requests = 200;
  const worker = await startContender(runtime, "client", server.origin, { accounts: 100 });
  const trace = join(tmpdir(), `qwen-bench-strace-${worker.pid}`);
  try {
    for (let round = 0; round < 3; round += 1) await worker.ask({ command: "open" });
    const counts = await traced(worker.pid, trace, join(worker.home, ".qwen"), () =>
      worker.ask({ command: "requests", count: requests, width: 1 }),
    );
    if (counts === undefined) {
      add({
        measure: "accounts' files read again",
        contender: "client",
        reason: "strace is not here, or may not attach",
      });
    } else {
      add({
        measure: `accounts' files opened in ${requests} requests`,
        contender: "client",
        unit: "times",
        ...figures([counts.opened]),
      });
      add({
        measure: "looks at the accounts' files (stat) a request",
        contender: "client",
        unit: "times",
        ...figures([counts.looked / requests]),
      });
    }
    const path = join(worker.home, ".qwen/oauth_creds.json");
    const changed = { ...JSON.parse(readFileSync(path, "utf8")), access_token: "bench-access-changed" };
    writeFileSync(path, JSON.stringify({ ...changed, expiry_date: changed.expiry_date + 1_000 }, null, 2));
    await worker.ask({ command: "open" });
    const isSeen = (await server.stats()).lastToken === "bench-access-changed";
    add({
      measure: "a changed file is seen by the next request",
      contender: "client",
      unit: "of 1",
      ...figures([isSeen ? 1 : 0]),
    });
  } finally {
    await worker.stop();
    rmSync(trace, { force: true });
  }
}

async function traced(pid, file, directory, work) {
  try {
    execFileSync("strace", ["-V"], { stdio: "ignore" });
  } catch {
    return undefined;
  }
  const strace = spawn("strace", ["-f", "-p", String(pid), "-e", "trace=%file", "-s", "512", "-o", file], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const isAttached = await new Promise((resolve) => {
    strace.stderr.once("data", (text) => resolve(String(text).includes("attached")));
    strace.once("exit", () => resolve(false));
  });
  if (!isAttached) return undefined;
  const ended = new Promise((resolve) => strace.once("exit", resolve));
  await work();
  strace.kill("SIGINT");
  await ended;
  const calls = readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line.includes(directory));
  const opened = calls.filter((line) => /\bopen(at2?)?\(/.test(line)).length;
  return { opened, looked: calls.length - opened };
}
