"use strict";

// The texts of --help.

const { COMMANDS } = require("./commands");
const { columns } = require("./text");

const PROGRAM = "opencode-qwen-cli-auth";

const COMMON = [
  ["--json", "print JSON"],
  ["-h, --help", "show this help"],
  ["-v, --version", "show the version"],
];

/** Returns the usage line, which follows an error about the arguments. */
function usageLine(name) {
  if (name === undefined) {
    return `Usage: ${PROGRAM} <command> [options]`;
  }
  const { operand, name: second, options } = COMMANDS[name];
  const parts = Object.entries(options).map(([option, { value }]) => `[${flag(option, value)}]`);
  return ["Usage:", PROGRAM, name, ...[operand, second].filter(Boolean), ...parts, "[--json]"].join(" ");
}

function help(name) {
  if (name === undefined) {
    const commands = Object.entries(COMMANDS).map(([command, { operand, name: second, summary }]) => [
      [command, operand, second].filter(Boolean).join(" "),
      summary,
    ]);
    return [
      usageLine(),
      "",
      "Commands:",
      ...indented(commands),
      "",
      "Options of all commands:",
      ...indented(COMMON),
      "",
      `"${PROGRAM} <command> --help" shows the options of a command.`,
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 ended by Ctrl-C.",
    ];
  }
  const { summary, options } = COMMANDS[name];
  const own = Object.entries(options).map(([option, { value, summary }]) => [flag(option, value), summary]);
  return [
    usageLine(name),
    "",
    `${summary[0].toUpperCase()}${summary.slice(1)}.`,
    "",
    "Options:",
    ...indented([...own, ...COMMON]),
  ];
}

function flag(option, value) {
  return value === undefined ? `--${option}` : `--${option} ${value}`;
}

const indented = (rows) => columns(rows).map((line) => `  ${line}`);

module.exports = { PROGRAM, help, usageLine };
