// Runs a function of a spec in a process of its own: see child.mjs.

const { source, data } = JSON.parse(process.env.SPEC_CHILD);
delete process.env.SPEC_CHILD;

process.on("unhandledRejection", (error) => {
  process.stderr.write(`unhandled rejection: ${error?.stack ?? error}\n`);
  process.exit(70);
});

/** The package is loaded when it is asked for: some want to see what that does. */
const load = async () => (await import("opencode-qwen-cli-auth/api")).default;
const report = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
/** Resolves at the next line from the parent; the process waits for it. */
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

/** A function from its text; it sees nothing of where it stood. */
// oxlint-disable-next-line no-eval -- that is what this program is for
const revive = (text) => (0, eval)(`(${text})`);

await revive(source)({ load, report, told, revive, data });
