"use strict";

// Reads the arguments.

const { parseArgs } = require("node:util");
const { COMMANDS } = require("./commands");
const { UsageError } = require("./failure");

const COMMON = {
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
  version: { type: "boolean", short: "v" },
};

/**
 * @param {string[]} argv
 * @returns {{command?: string, operand?: string, name?: string, options: object}} without a command where only help or the version is
 *   asked for
 */
function readArguments(argv) {
  const { values, positionals } = parse(argv);
  const [name, ...operands] = positionals;
  const isKnown = name !== undefined && Object.hasOwn(COMMANDS, name);
  if (name !== undefined && !isKnown) throw new UsageError(`There is no command ${JSON.stringify(name)}.`);
  const command = isKnown ? COMMANDS[name] : { options: {} };
  for (const [option, value] of Object.entries(values)) {
    if (!Object.hasOwn(COMMON, option) && !Object.hasOwn(command.options, option)) {
      throw new UsageError(`--${option} is no option of ${name ?? "this program without a command"}.`, name);
    }
    if (typeof value === "string" && value.trim() === "") throw new UsageError(`--${option} is empty.`, name);
  }
  if (values.help || values.version) return { command: name, options: values };
  if (name === undefined) throw new UsageError("A command is missing.");
  command.check?.(values);
  return { command: name, ...readOperands(command, operands, name), options: values };
}

function parse(argv) {
  const options = Object.assign({}, ...Object.values(COMMANDS).map(({ options }) => options), COMMON);
  const known = Object.entries(options).map(([name, { type, short }]) => [
    name,
    short ? { type, short } : { type },
  ]);
  try {
    return parseArgs({
      args: argv,
      options: Object.fromEntries(known),
      allowPositionals: true,
      strict: true,
    });
  } catch (error) {
    if (!String(error?.code).startsWith("ERR_PARSE_ARGS")) throw error;
    throw new UsageError(
      error.message,
      argv.find((argument) => Object.hasOwn(COMMANDS, argument)),
    );
  }
}

function readOperands({ operand: wanted, name: wantedName, surplus: advice }, operands, command) {
  const isMissing = (text) => text === undefined || text.trim() === "";
  const isOptional = wanted?.startsWith("[");
  for (const [index, expected] of [wanted, wantedName].entries()) {
    const given = operands[index];
    const isRequired = expected !== undefined && !(index === 0 && isOptional && given === undefined);
    if (isRequired && isMissing(given)) throw new UsageError(`${command} needs ${expected}.`, command);
  }
  const surplus = operands[[wanted, wantedName].filter(Boolean).length];
  if (surplus !== undefined)
    throw new UsageError(advice ?? `${JSON.stringify(surplus)} is one argument too many.`, command);
  return { operand: operands[0], name: operands[1] };
}

module.exports = { readArguments };
