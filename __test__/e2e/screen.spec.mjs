// OpenCode's screen: an answer, and toasts that don't cover it.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { assertClean } from "./support/checks.mjs";
import { openHost, suite } from "./support/opencode.mjs";

const skip = suite().skip || (spawnSync("tmux", ["-V"]).status !== 0 && "tmux is not installed");

/** A toast is in the upper right corner, in its own frame. */
const toast = (message) => new RegExp(`┃  Qwen {3,}┃[^]*┃ +${message}`);

async function connect(screen) {
  await screen.enter("/connect");
  await screen.waitFor(/Connect a provider/);
  // Typing narrows the list.
  await screen.enter("qwen code", /Connect a provider(?![^]*OpenCode Zen)[^]*Qwen Code/);
  await screen.waitFor(/Select auth method[^]*Qwen Code \(qwen\.ai OAuth\)/);
  screen.press("Enter");
  await screen.waitFor(/The code is[^]*Waiting for authorization/);
}

test("the screen logs in, chats, and shows errors as toasts", { skip }, async (t) => {
  const host = await openHost(t, { login: false, server: { autoApprove: false } });
  const screen = host.openScreen();
  await screen.waitFor(/Ask anything[^]*Build · Qwen Coder Qwen Code/);

  await connect(screen);
  host.server.deny();
  await screen.waitFor(toast("The login was refused in the browser"));
  await connect(screen);
  host.server.approve();
  await screen.waitFor(/Qwen Code +esc[^]*Qwen Vision/);
  screen.press("Escape");
  await screen.waitFor(/^(?![^]*Favorite)/);

  await screen.enter("hello");
  await screen.waitFor(/^ +You said: hello/m);
  host.server.script("chat", [{ do: "forbidden", times: Infinity }]);
  // OpenCode may lose a toast; each refusal brings another.
  let text;
  for (let attempt = 1; attempt <= 5 && text === undefined; attempt += 1) {
    await screen.enter(`again ${attempt}`);
    text = await screen.waitFor(toast("Qwen refused this login"), 12_000).catch(() => undefined);
  }
  assert.ok(text, `no toast:\n${screen.text()}`);
  // Nothing has covered the rest.
  const lines = text.split("\n");
  assert.ok(
    lines.some((line) => /^ +You said: hello/.test(line)),
    text,
  );
  assert.match(lines.at(-2), /^ {2}╹▀+$/, text);
  assert.match(lines.at(-1), /ctrl\+p commands$/, text);
  const strangers = lines.filter((line) => !/^ {2,}\S|^ *┃/.test(line));
  assert.deepEqual(strangers, [], text);
  await screen.waitFor(/^ +┃ {2}Qwen refused this login, and a fresh token for it too\./m);
  assertClean(host.server);
});
