"use strict";

// Reads the arguments of the command line.

const { parseArgs } = require("node:util");
const { COMMANDS } = require("./commands");
const { UsageError } = require("./failure");
const { isKey } = require("./hide-secrets");
const { quotedWord } = require("./text");

const COMMON = {
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
  version: { type: "boolean", short: "v" },
};

/** A header, or the assignment of a variable, that names a secret. */
const NAMED_SECRET = /^(?:[Aa]uthorization:|[A-Za-z_]*(?:KEY|TOKEN)=)/;
/** Options that an error may repeat to show a typing mistake. */
const PLAIN = /^--?[a-z-]{1,20}$/;

/**
 * Reads the arguments. Errors never repeat an argument that may be a secret.
 *
 * @param {string[]} argv
 * @returns {{command?: string, operand?: string, name?: string, options: Record<string, any>}} without a command if
 *   only help or the version is wanted
 */
function readArguments(argv) {
  refuseSecrets(argv);
  const { values, positionals } = parse(argv);
  const [name, ...operands] = positionals;
  const isKnown = name !== undefined && Object.hasOwn(COMMANDS, name);
  if (name !== undefined && !isKnown)
    throw new UsageError(`There is no command${quotedWord(name) || " of that name"}.`);
  const command = isKnown ? COMMANDS[name] : { options: {} };
  for (const [option, value] of Object.entries(values)) {
    if (!Object.hasOwn(COMMON, option) && !Object.hasOwn(command.options, option)) {
      throw new UsageError(`Unknown option --${option}${name === undefined ? "" : ` of ${name}`}.`, name);
    }
    if (typeof value === "string" && value.trim() === "") throw new UsageError(`--${option} is empty.`, name);
  }
  if (values.help || values.version) return { command: name, options: values };
  if (name === undefined) throw new UsageError("A command is missing.");
  command.check?.(values);
  return { command: name, ...readOperands(command, operands, name), options: values };
}

/** @returns {{values: Record<string, any>, positionals: string[]}} */
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
    throw new UsageError(problemOf(argv, options, error), commandOf(argv));
  }
}

function commandOf(argv) {
  return argv.find((argument) => Object.hasOwn(COMMANDS, argument));
}

/** Describes an error of parseArgs, whose own messages repeat the arguments. */
function problemOf(argv, options, { code }) {
  const given = argv.filter((argument) => argument.startsWith("-")).map((argument) => argument.split("=")[0]);
  if (code === "ERR_PARSE_ARGS_UNKNOWN_OPTION") {
    const shorts = Object.values(options).flatMap(({ short }) => (short ? [`-${short}`] : []));
    const isKnown = (option) => Object.hasOwn(options, option.slice(2)) || shorts.includes(option);
    const unknown = given.find((option) => !isKnown(option));
    return unknown !== undefined && PLAIN.test(unknown) ? `Unknown option ${unknown}.` : "Unknown option.";
  }
  const named = given.findLast((option) => Object.hasOwn(options, option.slice(2)));
  return `${named ?? "An option"} has no value, or one that it doesn't accept.`;
}

/** Throws for secrets in the arguments: other users can see them, and the shell keeps them in its history. */
function refuseSecrets(argv) {
  const values = argv.map((argument) => argument.replace(/^--?[\w-]+=/, "").trim());
  if (!values.some((value) => isKey(value) || NAMED_SECRET.test(value))) return;
  const advice =
    "A key is not taken from the arguments, where others can see it. Run add-key and paste it when it is asked for.";
  throw new UsageError(advice, commandOf(argv));
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
    throw new UsageError(
      advice ?? `${quotedWord(surplus).trim() || "There"} is one argument too many.`,
      command,
    );
  return { operand: operands[0], name: operands[1] };
}

module.exports = { readArguments };
