"use strict";

// Arguments that may be secrets. Terminals and CI keep what is printed, so no error repeats one.

const { existsSync } = require("node:fs");
const { dirname } = require("node:path");

const HIDDEN = "***";
/** How keys and tokens of well-known services begin. */
const KNOWN = /^(?:sk[-_]|gh[pousr]_|github_pat_|glpat-|npm_|hf_|xox[a-z]-|AKIA|ASIA|AIza|eyJ|[Bb]earer\s)/u;
const ACCOUNT_ID = /^acct_[\da-f]+_[\da-f]{8}$/u;

/** @param {string} text */
function mayBeSecret(text) {
  if (text.length >= 8 && KNOWN.test(text)) return true;
  const isOneWord = text.length >= 20 && /^[\w.~+=-]+$/u.test(text);
  return isOneWord && /\d/u.test(text) && /[a-z]/iu.test(text) && !ACCOUNT_ID.test(text);
}

/** The words of an argument. A path in an existing directory has none: an error has to name the file. */
function words(argument) {
  const isPath = /[/\\]/u.test(argument) && existsSync(dirname(argument));
  return isPath ? [] : [argument, ...argument.split(/[=\s/\\]/u)];
}

/**
 * A function that takes the arguments that may be secrets out of a text.
 *
 * @param {string[]} argv
 */
function hider(argv) {
  const secrets = argv
    .flatMap(words)
    .filter(mayBeSecret)
    .sort((one, other) => other.length - one.length);
  return (text) => secrets.reduce((shown, secret) => shown.replaceAll(secret, HIDDEN), text);
}

module.exports = { hider };
