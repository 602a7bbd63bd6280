"use strict";

// The commands by name. Each has a `summary`, its `options` (for parseArgs, with what help says), perhaps an `operand`
// (one in brackets may be missing) and a `name` after it (or what to say to one that is not wanted, `surplus`), perhaps a
// `check` that throws for options that make no sense, and `run`, which resolves with a `value` for JSON and `lines` for a
// person, perhaps an `exitCode`; `undefined` where it has printed by itself. One that is standalone makes no client.

const COMMANDS = {
  login: require("./login"),
  "add-key": require("./add-key"),
  import: require("./import"),
  accounts: require("./accounts"),
  use: require("./use"),
  rename: require("./rename"),
  enable: require("./enable"),
  disable: require("./disable"),
  remove: require("./remove"),
  models: require("./models"),
  serve: require("./serve"),
  status: require("./status"),
  doctor: require("./doctor"),
};

module.exports = { COMMANDS };
