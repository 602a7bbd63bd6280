"use strict";

// Recognizes secrets in arguments, even without the addon, and removes them from errors: terminals and CI keep the output.

const { existsSync } = require("node:fs");
const { dirname } = require("node:path");

const HIDDEN = "***";
/** Prefixes of the keys and tokens of well-known services. */
const KNOWN =
  /^(?:sk[-_]|gh[pousr]_|github_pat_|glpat-|npm_|hf_|xox\w-|A[KS]IA[A-Z\d]{12}|AIza|eyJ|[Bb]earer\s)/u;
const ACCOUNT_ID = /^acct_[\da-f]+_[\da-f]{8}$/u;

/** @param {string} text */
const isKey = (text) => text.length >= 8 && KNOWN.test(text);

/** @param {string} text */
function mayBeSecret(text) {
  if (isKey(text)) return true;
  const isOneWord = text.length >= 20 && /^[\w.~+=-]+$/u.test(text);
  return isOneWord && /\d/u.test(text) && /[a-z]/iu.test(text) && !ACCOUNT_ID.test(text);
}

/** Splits an argument into words. Returns none for a path in an existing directory, since an error has to name the file. */
function words(argument) {
  const isPath = /[/\\]/u.test(argument) && existsSync(dirname(argument));
  return isPath ? [] : [argument, ...argument.split(/[=\s/\\]/u)];
}

/** Variables whose paths an error may repeat. A key can get into one by mistake. */
const PATHS = [
  "OPENCODE_QWEN_ACCOUNTS_PATH",
  "QWEN_HOME",
  "QWEN_CLI_PATH",
  "SSL_CERT_FILE",
  "NODE_EXTRA_CA_CERTS",
];

/**
 * Returns a function that removes from a text the arguments and parts of paths in the environment that may be secrets.
 *
 * @param {string[]} argv
 * @param {Record<string, string | undefined>} env
 */
function hider(argv, env) {
  const inPaths = PATHS.flatMap((name) => (env[name] ?? "").split(/[=\s/\\]/u)).filter(isKey);
  const secrets = [...argv.flatMap(words), ...inPaths]
    .filter(mayBeSecret)
    .sort((one, other) => other.length - one.length);
  return (text) => secrets.reduce((shown, secret) => shown.replaceAll(secret, HIDDEN), text);
}

module.exports = { hider, isKey };
