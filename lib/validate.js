"use strict";

// Reads the fields of callers' objects, each once, and validates them.

const { invalidArgument } = require("./errors");

const MAX_TIMER_MS = 2 ** 31 - 1;
const MAX_LABEL_LENGTH = 100;

/** Reads a property whose getter may throw. */
function read(object, field, name) {
  try {
    return object[field];
  } catch (error) {
    throw invalidArgument(name, "could not be read", error);
  }
}

function isObject(value) {
  return (typeof value === "object" && value !== null) || typeof value === "function";
}

const string = (value, name) => {
  if (typeof value !== "string") throw invalidArgument(name, "must be a string");
  return value;
};

/**
 * Returns true for white space and characters of no width. The pattern is a string, since reading it as a part of this file
 * would double the time to load the file.
 */
const showsNothing = (value) => new RegExp(NOTHING, "u").test(value);
const NOTHING = String.raw`^[\s\p{Default_Ignorable_Code_Point}\u2800]*$`;

const text = (value, name) => {
  if (typeof value !== "string" || showsNothing(value))
    throw invalidArgument(name, "must be a non-empty string");
  return value;
};

/** Validates a label, which is printed in terminals: no control characters. */
const label = (value, name) => {
  text(value, name);
  // eslint-disable-next-line no-control-regex -- the pattern looks for control characters
  if (/[\u0000-\u001f\u007f-\u009f]/u.test(value))
    throw invalidArgument(name, "must not hold control characters");
  if (value.length > MAX_LABEL_LENGTH)
    throw invalidArgument(name, `must not be longer than ${MAX_LABEL_LENGTH} characters`);
  return value;
};

const boolean = (value, name) => {
  if (typeof value !== "boolean") throw invalidArgument(name, "must be true or false");
  return value;
};

const oneOf = (names) => (value, name) => {
  if (!names.includes(value)) throw invalidArgument(name, `must be one of ${names.join(", ")}`);
  return value;
};

const callback = (value, name) => {
  if (typeof value !== "function") throw invalidArgument(name, "must be a function");
  return value;
};

const milliseconds = (value, name) => {
  if (!Number.isInteger(value) || value < 1 || value > MAX_TIMER_MS) {
    throw invalidArgument(name, `must be a whole number of milliseconds from 1 to ${MAX_TIMER_MS}`);
  }
  return value;
};

const port = (value, name) => {
  if (!Number.isInteger(value) || value < 0 || value > 65_535) {
    throw invalidArgument(name, "must be a port number from 0 to 65535; 0 lets the system choose one");
  }
  return value;
};

const seconds = (value, name) => {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0) {
    throw invalidArgument(name, "must be a number of seconds, 0 or more");
  }
  return value;
};

const signal = (value, name) => {
  const has = (property, type) => typeof read(value, property, name) === type;
  const isSignal = isObject(value) && has("aborted", "boolean") && has("throwIfAborted", "function");
  if (!isSignal || !has("addEventListener", "function") || !has("removeEventListener", "function")) {
    throw invalidArgument(name, "must be an AbortSignal");
  }
  return value;
};

const environment = (value, name) => {
  if (!isObject(value)) throw invalidArgument(name, "must be an object of strings");
  /** @type {Record<string, string>} */
  const variables = {};
  let names;
  try {
    names = Object.keys(value);
  } catch (error) {
    throw invalidArgument(name, "could not be read", error);
  }
  for (const key of names) {
    const variable = read(value, key, `${name}.${key}`);
    if (variable !== undefined) variables[key] = string(variable, `${name}.${key}`);
  }
  return variables;
};

/** Reads the fields of an options object. A missing object has no fields. */
function options(value, name, fields) {
  if (value === undefined) return {};
  if (!isObject(value)) throw invalidArgument(name, "must be an object");
  const result = {};
  for (const [field, check] of Object.entries(fields)) {
    const path = name === "options" ? field : `${name}.${field}`;
    const found = read(value, field, path);
    if (found !== undefined) result[field] = check(found, path);
  }
  return result;
}

/** Like `options`, but every field is required. */
function record(value, name, fields) {
  if (!isObject(value)) throw invalidArgument(name, "must be an object");
  const result = {};
  for (const [field, check] of Object.entries(fields)) {
    const path = `${name}.${field}`;
    result[field] = check(read(value, field, path), path);
  }
  return result;
}

const OAUTH_FIELDS = {
  baseUrl: text,
  deviceAuthorizationEndpoint: text,
  tokenEndpoint: text,
  clientId: text,
  scope: text,
  timeoutMs: milliseconds,
};

const oauth = (value, name) => options(value, name, { ...OAUTH_FIELDS, signal });

const CLIENT_FIELDS = {
  env: environment,
  oauth,
  baseUrl: text,
  accountsPath: text,
  quotaCooldownMs: milliseconds,
  rotation: oneOf(["sequential", "round-robin", "hybrid"]),
  degrade: boolean,
  cliFallback: boolean,
  allowPaidFallback: boolean,
  qwenMode: boolean,
  connectTimeoutMs: milliseconds,
  idleTimeoutMs: milliseconds,
  onEvent: callback,
};

/**
 * Options that OpenCode's configuration may give. They may come from a project that the user has only cloned, so they tune
 * requests, but never choose a server, a file or a program, and never allow higher costs.
 */
const PLUGIN_FIELDS = [
  "quotaCooldownMs",
  "rotation",
  "degrade",
  "allowPaidFallback",
  "qwenMode",
  "connectTimeoutMs",
  "idleTimeoutMs",
];

/** Returns the validated options of the plugin, and the names of the options that are ignored. */
function pluginOptions(value) {
  const given = isObject(value) ? Object.keys(value) : [];
  const allowed = Object.fromEntries(PLUGIN_FIELDS.map((field) => [field, CLIENT_FIELDS[field]]));
  const settings = options(value ?? undefined, "options", allowed);
  const ignored = given.filter((field) => !PLUGIN_FIELDS.includes(field));
  if (settings.allowPaidFallback) {
    delete settings.allowPaidFallback;
    ignored.push("allowPaidFallback");
  }
  return { settings, ignored };
}

const KEY_FIELDS = {
  key: text,
  plan: oneOf(["coding-plan", "token-plan", "dashscope"]),
  region: text,
  baseUrl: text,
  label,
  tier: oneOf(["lite", "standard", "pro"]),
  check: boolean,
};

/** Reads the options of `addApiKey`. Only the key is required. */
function keyOptions(value) {
  const checked = options(value, "options", KEY_FIELDS);
  if (checked.key === undefined) throw invalidArgument("key", "must be a non-empty string");
  return checked;
}

/** Reads the changes to an account. Missing fields stay unchanged. */
function accountChanges(value) {
  if (value === undefined) throw invalidArgument("changes", "must be an object");
  return options(value, "changes", { label, enabled: boolean });
}

const DEVICE_AUTHORIZATION_FIELDS = {
  deviceCode: text,
  userCode: string,
  verificationUri: string,
  verificationUriComplete: string,
  expiresIn: seconds,
  interval: seconds,
  codeVerifier: text,
};

module.exports = {
  accountChanges,
  boolean,
  callback,
  environment,
  isObject,
  keyOptions,
  label,
  options,
  port,
  read,
  signal,
  text,
  oauthOptions: (value) => oauth(value, "options"),
  pluginOptions,
  clientOptions: (value) => options(value, "options", CLIENT_FIELDS),
  deviceAuthorization: (value) => record(value, "authorization", DEVICE_AUTHORIZATION_FIELDS),
};
