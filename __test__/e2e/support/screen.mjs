import { execFileSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

/** OpenCode in a terminal of 110 by 35 characters, in tmux. */
export class Screen {
  #socket;

  constructor(binary, { work, env, sandbox }) {
    this.#socket = sandbox.path("tmux");
    const assignments = Object.entries({ ...env, TERM: "xterm-256color" }).map(
      ([key, value]) => `${key}=${value}`,
    );
    const command = ["env", "-i", ...assignments, binary, "-m", "qwen-code/coder-model"];
    const size = ["-x", "110", "-y", "35"];
    // The last screen of an OpenCode that has ended shows the reason.
    const keep = ["set-option", "-g", "remain-on-exit", "on", ";"];
    this.#tmux(
      "-f",
      "/dev/null",
      "start-server",
      ";",
      ...keep,
      "new-session",
      "-d",
      ...size,
      "-c",
      work,
      ...command,
    );
  }

  /** The screen's lines, without empty ones. */
  text() {
    const lines = this.#tmux("capture-pane", "-p").split("\n");
    return lines.filter((line) => line.trim() !== "").join("\n");
  }

  async waitFor(pattern, timeoutMs = 120_000) {
    const until = Date.now() + timeoutMs;
    let text;
    do {
      text = this.text();
      if (pattern.test(text)) return text;
      await sleep(100);
    } while (Date.now() < until);
    throw new Error(`no ${pattern} within ${timeoutMs} ms:\n${text}`);
  }

  /** Types a text and, once it is shown, Enter. */
  async enter(text, seen = new RegExp(`┃  ${text}`)) {
    this.#tmux("send-keys", "-l", text);
    await this.waitFor(seen);
    this.press("Enter");
  }

  pid() {
    return Number(this.#tmux("display-message", "-p", "#{pane_pid}"));
  }

  press(key) {
    this.#tmux("send-keys", key);
  }

  #tmux(...args) {
    return execFileSync("tmux", ["-S", this.#socket, ...args], { encoding: "utf8", stdio: "pipe" });
  }

  close() {
    try {
      this.#tmux("kill-server");
    } catch {
      // It has ended by itself.
    }
  }
}
