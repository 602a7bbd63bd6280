// OpenCode is told to end during a refresh, and the login is kept.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { gate, until } from "../support/harness.mjs";
import { CREDENTIALS, openHost, suite } from "./support/opencode.mjs";

const withoutTmux = spawnSync("tmux", ["-V"]).status !== 0 && "tmux is not installed";

/** OpenCode with an expired login, and a server that answers its refresh once `open` is called. */
async function midway(t) {
  const host = await openHost(t, { login: { expiresIn: -60 } });
  const { open, step } = gate();
  host.server.script("token", [step]);
  const read = () => host.sandbox.readJson(CREDENTIALS).refresh_token;
  return { host, open, read, before: read() };
}

/** False for a process that has ended, even if its parent has not reaped it. */
function isAlive(pid) {
  const state = spawnSync("ps", ["-o", "stat=", "-p", String(pid)], { encoding: "utf8" }).stdout.trim();
  return state !== "" && !state.startsWith("Z");
}

async function assertKept({ host, open, read, before }) {
  await sleep(500);
  open();
  await until(() => read() !== before, "the refreshed login is written");
  assert.ok(host.server.issued.includes(read()));
  assert.equal(host.server.stats.redemptions, 1);
}

describe("the end of OpenCode during a refresh", suite(), () => {
  for (const signals of [["SIGINT", "SIGINT"], ["SIGTERM"]]) {
    test(`run, ${signals.join(" and ")}`, async (t) => {
      const set = await midway(t);
      const child = set.host.start(["run", "--title", "a title", "-m", "qwen-code/coder-model", "hello"]);
      await set.host.server.waitFor("token");
      for (const signal of signals) {
        child.kill(signal);
        await sleep(100);
      }
      await assertKept(set);
    });
  }

  for (const signal of ["SIGINT", "SIGHUP"]) {
    test(`serve, ${signal}`, async (t) => {
      const set = await midway(t);
      const service = await set.host.serve();
      const session = await service.request("/session", { title: "a title" });
      const parts = [{ type: "text", text: "hello" }];
      const model = { providerID: "qwen-code", modelID: "coder-model" };
      service.request(`/session/${session.body.id}/message`, { model, parts }).catch(() => {});
      await set.host.server.waitFor("token");
      service.kill(signal);
      await assertKept(set);
    });
  }

  const endings = {
    "Ctrl-C and SIGINT": (screen) => {
      const pid = screen.pid();
      screen.press("C-c");
      process.kill(pid, "SIGINT");
    },
    "a closed terminal": (screen) => screen.close(),
    SIGTERM: (screen) => process.kill(screen.pid(), "SIGTERM"),
  };
  for (const [name, end] of Object.entries(endings)) {
    test(`the screen, ${name}`, { skip: withoutTmux }, async (t) => {
      const set = await midway(t);
      const screen = set.host.openScreen();
      await screen.waitFor(/Ask anything[^]*Build · Qwen Coder Qwen Code/);
      await screen.enter("hello");
      await set.host.server.waitFor("token");
      const pid = screen.pid();
      end(screen);
      await assertKept(set);
      await until(() => !isAlive(pid), "OpenCode ends");
    });
  }
});
