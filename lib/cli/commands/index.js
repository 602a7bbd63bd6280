"use strict";

// The commands by name. Each has these fields:
// - `summary`, and `options` for parseArgs with the text of the help
// - optional: an `operand` (in brackets if it may be missing), a `name` after it, or a `surplus`, the error for an operand that
//   the command doesn't take
// - optional: `check`, which throws for invalid options
// - `run`, which resolves with a `value` for JSON, `lines` for a person, and an optional `exitCode`; or with `undefined` if it
//   has printed everything itself
// - optional: `isStandalone`, true if the command needs no client

const { disable, enable } = require("./enabling");

const COMMANDS = {
  login: require("./login"),
  "add-key": require("./add-key"),
  import: require("./import"),
  accounts: require("./accounts"),
  use: require("./use"),
  rename: require("./rename"),
  enable,
  disable,
  remove: require("./remove"),
  models: require("./models"),
  serve: require("./serve"),
  status: require("./status"),
  doctor: require("./doctor"),
};

module.exports = { COMMANDS };
