// Shows the plugin in real OpenCode: `npm run demo` with a local server in place of Qwen, and `npm run demo -- --real`
// with Qwen itself.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { CREDENTIALS, CURRENT, Host } from "../__test__/e2e/support/opencode.mjs";
import { startQwenServer } from "../__test__/support/qwen-server.mjs";
import { ensureDependencies, root, run } from "./tasks.mjs";

const USAGE = `usage: npm run demo [-- --real]

Installs and builds what is needed, then logs in, chats, calls a tool, restarts with an expired token, lets another
program ask over the gateway, and switches accounts when one is out of quota, in OpenCode ${CURRENT} with a home directory of its own.

  --real   with Qwen itself: shows an address and waits until you have approved the login there
`;

/** Files with tokens. */
const STORES = [CREDENTIALS, ".qwen/oauth_accounts.json"];
const COMMAND_LINE = join(root, "bin/opencode-qwen-cli-auth.js");
const REQUEST_LOGS = ".opencode/logs/qwen-plugin";
const SECRET_WORD = "plum";
const ACCOUNTS = ["alice", "bob", "carol"];
/** Time for the user to find the browser, in milliseconds. */
const LOGIN_TIMEOUT_MS = 15 * 60_000;
/** Variables for internet access. */
const NETWORK = [
  "HTTPS_PROXY",
  "HTTP_PROXY",
  "ALL_PROXY",
  "NO_PROXY",
  "NODE_EXTRA_CA_CERTS",
  "SSL_CERT_FILE",
];

const hasColours = process.stdout.isTTY && !process.env.NO_COLOR;
const painter = (code) => (text) => (hasColours ? `\u001b[${code}m${text}\u001b[0m` : text);
const [bold, faint, green, red] = [1, 2, 32, 31].map(painter);
const say = (text = "") => process.stdout.write(`${text}\n`);

function heading(title, command) {
  say(`\n${bold(title)}`);
  say(faint(`$ ${command}\n`));
}

function expect(condition, problem) {
  if (!condition) throw new Error(problem);
}

function sayRequest({ method, path, status, note, model, account, secret }) {
  const details = [
    note,
    model && `model ${model}`,
    account && `account ${account}`,
    secret && "token redacted",
  ];
  say(faint(`  ${method} ${path} -> ${status}  ${details.filter(Boolean).join(", ")}`.trimEnd()));
}

/** Prints the requests that the local server has seen since the last call. */
function serverWire(server) {
  let shown = 0;
  const showWire = () => {
    const fresh = server.requests.slice(shown);
    shown += fresh.length;
    for (const { method, path, status, headers, body, account } of fresh) {
      const secret = headers.authorization !== undefined || body?.refresh_token !== undefined;
      const grant = body?.grant_type?.split(":").at(-1);
      const note = grant === "device_code" && status === 400 ? "not approved yet" : grant;
      sayRequest({ method, path, status, note, model: body?.model, account, secret });
    }
  };
  showWire.skip = () => {
    shown = server.requests.length;
  };
  return showWire;
}

/** Prints the API requests in the plugin's log. */
function logWire({ sandbox }) {
  const shown = new Set();
  return () => {
    const all = sandbox.has(REQUEST_LOGS) ? readdirSync(sandbox.path(REQUEST_LOGS)) : [];
    for (const name of all.filter((file) => file.endsWith(".json") && !shown.has(file)).sort()) {
      shown.add(name);
      const { method, url, model, attempts } = sandbox.readJson(`${REQUEST_LOGS}/${name}`);
      for (const { status, account } of attempts) {
        sayRequest({ method, path: url, status: status ?? "no answer", model, account, secret: true });
      }
    }
  };
}

async function logIn(host, { isReal, showWire }) {
  heading("1. Log in by the device flow", "opencode auth login -p qwen-code");
  const shown = new Set();
  const onText = (text) => {
    for (const line of text.split(/[\r\n]+/).map((part) => part.replace(/^\W+/, "").trim())) {
      if (!/^(Go to|Approve|Login successful)/.test(line) || shown.has(line)) continue;
      shown.add(line);
      say(`  ${line}`);
      if (line.startsWith("Approve") && !isReal) say("  (The local server approves it after two seconds.)");
    }
  };
  const { code, error, stderr } = await host.login({ onText, timeoutMs: LOGIN_TIMEOUT_MS });
  expect(code === 0, `The login failed: ${error ?? stderr.trim()}`);
  expect(host.sandbox.has(CREDENTIALS), `The login left no ~/${CREDENTIALS}.`);
  say("\nOver the wire:");
  showWire();
}

/** Sends a message and prints the answer as it arrives. Returns the answer and the names of the called tools. */
async function ask(service, text) {
  say(`You:  ${text}`);
  const { session, answer } = await service.prompt(text);
  const said = [];
  const tools = new Map();
  service.onEvent = (event) => {
    if (event.properties.sessionID !== session.id) return;
    const { part, field, delta } = event.properties;
    if (event.type === "message.part.delta" && field === "text") {
      if (said.length === 0) process.stdout.write("Qwen: ");
      said.push(delta);
      process.stdout.write(delta);
    } else if (part?.type === "tool" && part.state.status === "completed" && !tools.has(part.callID)) {
      tools.set(part.callID, part.tool);
      say(`      (OpenCode runs the tool "${part.tool}" with ${JSON.stringify(part.state.input)}.)`);
    }
  };
  const { body } = await answer;
  await service.waitForIdle(session);
  service.onEvent = () => {};
  say();
  const error = body?.info?.error;
  expect(error === undefined, `OpenCode reports: ${error?.data?.message ?? JSON.stringify(error)}`);
  return { answer: said.join(""), tools: [...tools.values()] };
}

async function chat(host, { isReal, showWire }) {
  heading("2. Chat, as the answer streams", "opencode serve");
  const service = await host.serve();
  const request = isReal ? "Say in two sentences what a device login is." : "Count, please: SAY 24";
  const { answer } = await ask(service, request);
  expect(answer !== "", "The answer is empty.");
  expect(isReal || answer.endsWith("word24"), `The answer is not what the local server says: ${answer}`);
  say("\nOver the wire:");
  showWire();

  heading("3. A tool call: the model has a file read", "opencode serve");
  host.sandbox.write("work/notes.txt", `The secret word is ${SECRET_WORD}.\n`);
  const told = await ask(service, "Read the file notes.txt. What is the secret word?");
  expect(told.tools.length > 0, "The model has called no tool.");
  expect(
    told.answer.includes(SECRET_WORD),
    `The answer does not have the word from the file: ${told.answer}`,
  );
  say("\nOver the wire:");
  showWire();
  await service.close();
}

async function restart(host, { showWire }) {
  heading("4. A restart with a token that has expired", 'opencode run "Are you there?"');
  const before = host.sandbox.readJson(CREDENTIALS).access_token;
  for (const path of STORES.filter((name) => host.sandbox.has(name))) {
    const expired = host.sandbox
      .read(path)
      .replaceAll(/"expiry_date": *\d+/g, `"expiry_date": ${Date.now() - 60_000}`);
    host.sandbox.write(path, expired);
  }
  say("(The demo has set the token's time of expiry to a minute ago.)");
  say("You:  Are you there?");
  const { code, stdout, error, stderr } = await host.chat("Are you there?");
  expect(code === 0, `OpenCode failed: ${error ?? stderr.trim()}`);
  say(`Qwen: ${stdout.trim()}`);
  const after = host.sandbox.readJson(CREDENTIALS).access_token;
  expect(after !== before, "The expired token was not refreshed.");
  say("\nOver the wire:");
  showWire();
}

/** A program with an OpenAI SDK. It takes the address and the key from its environment. */
const TOOL = `
import OpenAI from "openai";
const stream = await new OpenAI().chat.completions.create({
  model: "coder-model",
  messages: [{ role: "user", content: process.argv[1] }],
  stream: true,
});
for await (const { choices } of stream) process.stdout.write(choices[0]?.delta.content ?? "");`;

/** Runs a program that uses the gateway without OpenCode or this package. */
async function useGateway(host, { showWire }) {
  heading("5. Another program, over the gateway", "opencode-qwen-cli-auth serve --print-env");
  const gateway = spawn(process.execPath, [COMMAND_LINE, "serve", "--print-env"], {
    env: host.env,
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    const variables = {};
    for await (const line of createInterface({ input: gateway.stdout })) {
      const [name, value] = line.split("=");
      variables[name] = value;
      say(name.endsWith("KEY") ? `${name}=(redacted)` : line);
      if (variables.OPENAI_BASE_URL && variables.OPENAI_API_KEY) break;
    }
    expect(variables.OPENAI_API_KEY, "The gateway did not open.");
    say("\n(A program with the openai package is started with these two variables.)");
    const question = "Can you hear me?";
    say(`You:  ${question}`);
    process.stdout.write("Qwen: ");
    const env = { PATH: process.env.PATH, ...variables };
    const tool = spawn(process.execPath, ["--input-type=module", "--eval", TOOL, question], {
      cwd: root,
      env,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let answer = "";
    tool.stdout.on("data", (text) => {
      answer += text;
      process.stdout.write(text);
    });
    const [code] = await once(tool, "close");
    say();
    expect(code === 0 && answer !== "", "The program got no answer.");
    say("\nOver the wire:");
    showWire();
  } finally {
    gateway.kill("SIGTERM");
  }
}

/** Shows three accounts, two of them out of quota. */
async function switchAccounts(host, server, { showWire }) {
  heading("6. Three accounts, two of them out of quota", 'opencode run "Who answers?"');
  for (const account of ["bob", "carol"]) {
    server.set({ autoApproveAccount: account });
    const { code, error, stderr } = await host.login();
    expect(code === 0, `The login as ${account} failed: ${error ?? stderr.trim()}`);
  }
  for (const account of ["carol", "alice"]) server.setQuota(account, 0);
  showWire.skip();
  say("(Two more logins have added bob and carol. The last one is the active account.)");
  say("You:  Who answers?");
  const { code, stdout, error, stderr } = await host.chat("Who answers?");
  expect(code === 0, `OpenCode failed: ${error ?? stderr.trim()}`);
  say(`Qwen: ${stdout.trim()}`);
  const statuses = server.seen("chat").slice(-3);
  expect(
    statuses.map(({ status }) => status).join() === "429,429,200",
    "The request did not go from account to account.",
  );
  say("\nOver the wire:");
  showWire();
}

/** A stand-in for the qwen CLI, which would need a real key. */
const STAND_IN = `#!/bin/sh
cat >/dev/null
printf '%s\\n' \\
  '{"type":"system","subtype":"init","session_id":"demo","tools":[]}' \\
  '{"type":"assistant","message":{"content":[{"type":"text","text":"The qwen CLI is here to help."}]}}' \\
  '{"type":"result","subtype":"success","is_error":false,"result":"The qwen CLI is here to help."}'
`;

/** Shows the error when all accounts are out of quota, and the fallback to the CLI. */
async function fallBack(host, server, { showWire }) {
  heading("7. All of them out of quota", 'opencode run "Anybody there?"');
  server.setQuota("bob", 0);
  say("You:  Anybody there?");
  const refused = await host.chat("Anybody there?");
  expect(refused.code !== 0 && refused.error, "OpenCode did not say that all accounts are out of quota.");
  say(`OpenCode: ${refused.error}`);
  say("\nOver the wire:");
  showWire();

  const command = 'OPENCODE_QWEN_ENABLE_CLI_FALLBACK=1 opencode run "Anybody there?"';
  heading("8. The same with the qwen CLI as the fallback", command);
  host.sandbox.write("bin/qwen", STAND_IN, 0o700);
  const env = { OPENCODE_QWEN_ENABLE_CLI_FALLBACK: "1", QWEN_CLI_PATH: host.sandbox.path("bin/qwen") };
  say("(A small script stands for the qwen CLI here.)");
  say("You:  Anybody there?");
  const { code, stdout, error, stderr } = await host.chat("Anybody there?", { env });
  expect(code === 0, `OpenCode failed: ${error ?? stderr.trim()}`);
  say(`Qwen: ${stdout.trim()}`);
  expect(stdout.includes("here to help"), "The answer is not the CLI's.");
}

async function main(args) {
  if (args.includes("--help")) return say(USAGE);
  const unknown = args.find((arg) => arg !== "--real");
  if (unknown !== undefined) {
    process.stderr.write(`Unknown option ${unknown}.\n\n${USAGE}`);
    process.exitCode = 2;
    return;
  }
  await ensureDependencies();
  await ensureDependencies("__test__/e2e");
  say("Building the native addon ...");
  await run(process.execPath, ["scripts/build.mjs"]);

  const isReal = args.includes("--real");
  const server = isReal
    ? undefined
    : await startQwenServer({ autoApprove: 2_000, pace: 40, accounts: ACCOUNTS });
  const network = NETWORK.flatMap((name) => [name, name.toLowerCase()]).filter((name) => process.env[name]);
  const env = isReal ? Object.fromEntries(network.map((name) => [name, process.env[name]])) : {};
  const host = new Host({ server, login: false, env: { ...env, ENABLE_PLUGIN_REQUEST_LOGGING: "1" } });
  const close = async () => {
    await Promise.all([host.close(), server?.close()]);
  };
  for (const signal of ["SIGINT", "SIGTERM"])
    process.once(signal, () => void close().then(() => process.exit(1)));

  say(
    `\nOpenCode ${CURRENT}, with ${isReal ? "Qwen itself" : `a server that stands for Qwen at ${server.url}`}.`,
  );
  say(
    `Its home directory is ${host.sandbox.home}: yours is not touched, and this one is removed in the end.`,
  );
  try {
    const stage = { isReal, showWire: isReal ? logWire(host) : serverWire(server) };
    if (isReal) say("The login is a real one. Approve it in any browser; this waits for you.");
    await logIn(host, stage);
    await chat(host, stage);
    await restart(host, stage);
    await useGateway(host, stage);
    if (server) {
      await switchAccounts(host, server, stage);
      await fallBack(host, server, stage);
    }
    const violations = server?.violations ?? [];
    expect(violations.length === 0, `The server found fault with a request: ${violations.join("; ")}`);
    say(`\n${green("All of it worked.")}`);
  } catch (error) {
    process.stderr.write(`\n${red("The demo failed.")} ${error.message}\n`);
    process.exitCode = 1;
  } finally {
    await close();
  }
}

await main(process.argv.slice(2));
