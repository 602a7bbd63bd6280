"use strict";

// The command line: reads the arguments, runs the command, and prints the result.

const { version } = require("../../package.json");
const { createClient } = require("../api");
const { readArguments } = require("./arguments");
const { COMMANDS } = require("./commands");
const { UsageError, describe } = require("./failure");
const { hider } = require("./hide-secrets");
const { Interrupt } = require("./interrupt");
const { Screen } = require("./screen");
const { clean, json } = require("./text");
const { PROGRAM, help, usageLine } = require("./usage");

const DONE = 0;
const FAILED = 1;
const WRONG_USAGE = 2;

/** Events that are shown to the user. */
const NOTABLE = new Set(["config", "store-repaired", "needs-attention", "needs-login"]);

/** Sets the exit code and lets the process end on its own, so that the output and tokens in progress are written. */
async function main() {
  const streams = {
    out: new Screen(process.stdout, process.env),
    err: new Screen(process.stderr, process.env),
  };
  process.stdout.on("error", (error) => {
    // A reader may stop early, as `head` does.
    if (error.code === "EPIPE") return;
    process.exitCode = FAILED;
    streams.err.print(`Could not write the output: ${clean(error.message)}. Check the disk it goes to.`);
  });
  const exitCode = await run(process.argv.slice(2), streams);
  process.exitCode ||= exitCode;
}

async function run(argv, streams) {
  let request;
  try {
    request = readArguments(argv);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return tellUsage(error, streams.err);
  }
  const { command, options } = request;
  if (options.help) {
    streams.out.print(...help(command));
    return DONE;
  }
  if (options.version) {
    streams.out.print(options.json ? json({ version }) : version);
    return DONE;
  }
  return execute(request, streams, hider(argv, process.env));
}

function tellUsage(error, err) {
  err.print(clean(error.message), usageLine(error.command), `See ${PROGRAM} --help.`);
  return WRONG_USAGE;
}

/**
 * @param {ReturnType<typeof readArguments>} request
 * @param {object} streams
 * @param {(text: string) => string} hide removes secrets from the text of an error
 */
async function execute({ command, operand, name, options }, { out, err }, hide) {
  const interrupt = new Interrupt([process.stdout, process.stderr]);
  const notes = [];
  /** Prints the notes that the error doesn't repeat. */
  const tellNotes = (error) => {
    const news = notes.splice(0).filter((note) => !error?.message?.includes(note));
    err.print(...new Set(news.map((note) => `Note: ${hide(clean(note))}`)));
  };
  let client;
  try {
    if (!COMMANDS[command].isStandalone) {
      client = createClient({ onEvent: ({ type, message }) => NOTABLE.has(type) && notes.push(message) });
    }
    const { signal } = interrupt;
    signal.addEventListener("abort", () => client?.close());
    // Standard output holds JSON alone, so text for a person goes to standard error.
    const screen = options.json && command === "login" ? err : out;
    const result = await COMMANDS[command].run({
      client,
      operand,
      name,
      options,
      signal,
      screen,
      // Questions always go to the person at the terminal.
      prompt: err,
      notes,
      tellNotes,
      env: process.env,
    });
    tellNotes();
    // The JSON has no lines about failures, so they go to standard error.
    if (options.json && result?.failures?.length > 0) err.print(...result.failures);
    if (result !== undefined) out.print(...(options.json ? [json(result.value, 2)] : result.lines));
    return result?.exitCode ?? DONE;
  } catch (error) {
    tellNotes(error);
    if (interrupt.exitCode !== undefined) {
      if (interrupt.isBySignal) err.print("Cancelled.");
      return interrupt.exitCode;
    }
    if (error instanceof UsageError) return tellUsage(error, err);
    err.print(hide(clean(error.message)));
    if (options.json) out.print(hide(json({ error: describe(error) }, 2)));
    return FAILED;
  } finally {
    client?.close();
    interrupt.release();
  }
}

module.exports = { main };
