// Runs a function of a spec in its own process: see child.mjs.

const { source, data } = JSON.parse(process.env.SPEC_CHILD);
delete process.env.SPEC_CHILD;

process.on("unhandledRejection", (error) => {
  process.stderr.write(`unhandled rejection: ${error?.stack ?? error}\n`);
  process.exit(70);
});

/** Loads the package on demand, for tests of the loading. */
const load = async () => (await import("opencode-qwen-cli-auth/api")).default;
const report = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
/** Resolves at the next line from the parent, and keeps the process alive until then. */
const told = () =>
  new Promise((resolve) => {
    process.stdin.ref?.();
    process.stdin.resume();
    process.stdin.once("data", () => {
      process.stdin.pause();
      process.stdin.unref?.();
      resolve();
    });
  });

/** Makes a function from its text. It can't use variables around its original place. */
// oxlint-disable-next-line no-eval -- that is what this program is for
const revive = (text) => (0, eval)(`(${text})`);

/** Sends a chat. */
const ask = (client, text, fields, init) =>
  client.fetch(`${client.baseUrl}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "coder-model", messages: [{ role: "user", content: text }], ...fields }),
    ...init,
  });

await revive(source)({ load, report, told, ask, revive, data });
