// Draws the pictures of the command line in docs/: `npm run pictures`, after `npm run build`. The real program runs in
// a terminal (util-linux's `script`) against the local server, and its screen becomes an SVG. `-- --check` only checks
// that the pictures exist.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import api from "../lib/api.js";
import { startQwenServer } from "../__test__/support/qwen-server.mjs";
import { removeDirectory } from "../__test__/support/remove.mjs";
import { inTerminal } from "../__test__/support/terminal.mjs";
import { root } from "./tasks.mjs";

const PICTURES = ["terminal-login", "terminal-accounts"].map((name) => join(root, "docs", `${name}.svg`));
const PROGRAM = join(root, "bin/opencode-qwen-cli-auth.js");
const COLUMNS = 108;
const CELL = { width: 8.4, height: 20 };
const MARGIN = 16;
const BAR = 28;
const COLOURS = { 31: "#ff7b72", 32: "#7ee787", 33: "#e3b341" };

if (process.argv.includes("--check")) {
  const missing = PICTURES.filter((path) => !existsSync(path));
  if (missing.length > 0) console.error(`Missing: ${missing.join(", ")}. Run \`npm run pictures\`.`);
  process.exit(missing.length === 0 ? 0 : 1);
}

const server = await startQwenServer({ accounts: ["alice", "bob"], autoApprove: 1_500 });
const home = mkdtempSync(join(tmpdir(), "qwen-auth-pictures-"));
const env = {
  PATH: process.env.PATH,
  HOME: home,
  TERM: "xterm-256color",
  OPENCODE_QWEN_OAUTH_BASE_URL: server.url,
};
try {
  const login = await run(["login", "--label", "work"]);
  await prepareAccounts();
  const accounts = await run(["accounts"]);
  writeFileSync(PICTURES[0], draw("login --label work", login));
  writeFileSync(PICTURES[1], draw("accounts", accounts));
} finally {
  await server.close();
  await removeDirectory(home);
}

/** Adds a second login without quota and a key, and sends requests with each account. */
async function prepareAccounts() {
  const client = api.createClient({ env, quotaCooldownMs: 24 * 60_000 + 9_000 });
  const [work] = await client.accounts();
  const file = join(home, "private.json");
  writeFileSync(file, JSON.stringify(server.issueToken({ account: "bob" })));
  const [{ id }] = await client.importAccounts(file);
  const other = await client.updateAccount(id, { label: "private" });
  const place = { plan: "token-plan", region: "intl" };
  const baseUrl = server.placeUrl(place.plan, place.region);
  const key = await client.addApiKey({ key: server.addKey(place), ...place, baseUrl, label: "team" });
  for (const [account, model, count] of [
    [key, "qwen3.7-plus", 7],
    [other, "coder-model", 12],
    [work, "coder-model", 31],
  ]) {
    await client.setActiveAccount(account.id);
    for (let turn = 1; turn <= count; turn += 1) await ask(client, model, turn);
    if (account === other) {
      server.script("chat", [{ do: "quota" }]);
      await ask(client, model, 1);
    }
  }
  client.close();
}

/** Sends a conversation that grows with each turn. */
async function ask(client, model, turn) {
  const messages = [{ role: "user", content: `${"All of the files. ".repeat(900 * turn)} SAY 400` }];
  const response = await client.fetch(`${client.baseUrl}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, messages }),
  });
  await response.text();
}

/** Runs the program in a terminal and returns everything that it wrote there. */
async function run(args) {
  const [command, ...rest] = inTerminal([process.execPath, PROGRAM, ...args], { columns: COLUMNS });
  const child = spawn(command, rest, { env, stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
  const code = await new Promise((resolve) => child.on("close", resolve));
  if (code !== 0) throw new Error(`${args.join(" ")} failed (${code}):\n${output}`);
  // The local server takes the place of Qwen's.
  return output.replaceAll(server.url, "https://chat.qwen.ai");
}

/** Follows the control sequences that the program uses, and returns the lines of the screen as cells with a style. */
function screenOf(output) {
  const lines = [[]];
  let [row, column, style] = [0, 0, {}];
  // oxlint-disable-next-line no-control-regex
  for (const [text, parameters, command] of output.matchAll(/\x1b\[([?\d;]*)([A-Za-z])|[^\x1b]/gsu)) {
    if (command === "m") style = styled(style, parameters.split(";").map(Number));
    else if (command === "A") row -= Number(parameters || 1);
    else if (command === "K") lines[row].length = column;
    else if (command === "J") [lines.length, lines[row].length] = [row + 1, column];
    else if (text === "\r") column = 0;
    else if (text === "\n") lines[(row += 1)] ??= [];
    else if (command === undefined) lines[row][column++] = { text, style };
  }
  while (lines.at(-1).length === 0) lines.pop();
  return lines.map((line) => Array.from(line, (cell) => cell ?? { text: " ", style: {} }));
}

function styled(style, codes) {
  let next = style;
  for (const code of codes) {
    if (code === 0) next = {};
    else if (code === 1) next = { ...next, weight: "bold" };
    else if (code === 2) next = { ...next, opacity: 0.6 };
    else if (code === 22) next = { ...next, weight: undefined, opacity: undefined };
    else if (code === 39) next = { ...next, fill: undefined };
    else next = { ...next, fill: COLOURS[code] };
  }
  return next;
}

function draw(command, output) {
  const lines = screenOf(`\x1b[2m$ npx opencode-qwen-cli-auth \x1b[0m\x1b[1m${command}\x1b[0m\r\n${output}`);
  const columns = Math.max(...lines.map((line) => line.length));
  const width = Math.ceil(columns * CELL.width + 2 * MARGIN);
  const height = lines.length * CELL.height + BAR + 2 * MARGIN;
  const dots = ["#ff5f57", "#febc2e", "#28c840"].map(
    (fill, index) => `<circle cx="${MARGIN + 6 + index * 20}" cy="${MARGIN + 2}" r="6" fill="${fill}"/>`,
  );
  const rows = lines.map((line, index) => rowOf(line, MARGIN + BAR + (index + 0.75) * CELL.height));
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
${dots.join("\n")}
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14" fill="#e6edf3" xml:space="preserve">
${rows.filter(Boolean).join("\n")}
</g>
</svg>
`;
}

/** One text element for each run of cells with the same style, stretched to its cells in any font. */
function rowOf(line, y) {
  const runs = [];
  for (const [column, { text, style }] of line.entries()) {
    const last = runs.at(-1);
    if (last?.style === style) last.text += text;
    else runs.push({ column, text, style });
  }
  return runs
    .filter(({ text }) => text.trim() !== "")
    .map(({ column, text, style: { fill, weight, opacity } }) => {
      const attributes = [
        ["x", (MARGIN + column * CELL.width).toFixed(1)],
        ["y", y],
        ["textLength", ([...text].length * CELL.width).toFixed(1)],
        ["fill", fill],
        ["font-weight", weight],
        ["opacity", opacity],
      ].flatMap(([name, value]) => (value === undefined ? [] : [` ${name}="${value}"`]));
      return `<text${attributes.join("")}>${escape(text)}</text>`;
    })
    .join("\n");
}

function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
