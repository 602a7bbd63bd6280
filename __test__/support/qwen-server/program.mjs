import { appendFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { QwenServer } from "./server.mjs";

const HELP = `usage: node qwen-server.mjs [options]

Plays chat.qwen.ai and portal.qwen.ai on one port of 127.0.0.1.

  --port N               port to listen on (default: any that is free)
  --accounts A,B         accounts that may log in (default: alice,bob)
  --auto-approve [MS]    approve each login by itself, after MS milliseconds
  --expires-in S         lifetime of access tokens in seconds (default: 21600)
  --interval S           polling interval in seconds (default: 1)
  --pace MS              time between the events of a streamed answer (default: 0)
  --no-strict            accept chat requests that the portal would refuse
  --log FILE|-           one line per request, to a file or standard output (default: -)
  --quiet                no request log
  --help                 this text
`;

const OPTIONS = {
  port: { type: "string" },
  accounts: { type: "string" },
  "auto-approve": { type: "string" },
  "expires-in": { type: "string" },
  interval: { type: "string" },
  pace: { type: "string" },
  "no-strict": { type: "boolean" },
  log: { type: "string" },
  quiet: { type: "boolean" },
  help: { type: "boolean" },
};

/** The server as a program: listens until SIGINT or SIGTERM. */
export async function main(args) {
  let settings;
  try {
    settings = read(args);
  } catch (error) {
    process.stderr.write(`${error.message}\nTry --help.\n`);
    process.exitCode = 2;
    return;
  }
  if (settings.help) return void process.stdout.write(HELP);
  // The parent process may stop reading.
  process.stdout.on("error", () => {});
  let server;
  try {
    server = await new QwenServer({ ...settings.options, onLog: settings.write }).listen({
      port: settings.port,
    });
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
    return;
  }
  process.stdout.write(`listening on ${server.url}\n`);
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => void server.close());
}

function read(args) {
  const { values } = parseArgs({ args: withOptionalValue(args), options: OPTIONS });
  const options = {
    accounts: values.accounts?.split(","),
    autoApprove: values["auto-approve"] === "" ? true : number(values, "auto-approve"),
    expiresIn: number(values, "expires-in"),
    interval: number(values, "interval"),
    pace: number(values, "pace"),
    strict: values["no-strict"] ? false : undefined,
  };
  return { help: values.help, options, port: number(values, "port"), write: logTo(values) };
}

/** `--auto-approve` takes an optional number. */
function withOptionalValue(args) {
  return args.map((arg, index) =>
    arg === "--auto-approve" && !/^\d+$/.test(args[index + 1] ?? "") ? "--auto-approve=" : arg,
  );
}

function number(values, name) {
  if (values[name] === undefined) return undefined;
  const value = Number(values[name]);
  if (values[name] === "" || !(value >= 0))
    throw new Error(`--${name} wants a number, got "${values[name]}"`);
  return value;
}

function logTo({ log = "-", quiet }) {
  if (quiet) return undefined;
  return log === "-"
    ? (line) => process.stdout.write(`${line}\n`)
    : (line) => appendFileSync(log, `${line}\n`);
}
