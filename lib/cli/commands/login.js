"use strict";

const { shown, withAccount } = require("../naming");
const { clean, width } = require("../text");
const { countdown, duration } = require("../time");

const TICK_MS = 1000;

/** Shows the address and the code, and waits for the approval. */
async function run({ client, options, signal, screen }) {
  let stopCountdown = () => {};
  const onAuthorization = (authorization) => {
    screen.print(...instructions(authorization));
    stopCountdown = startCountdown(screen, authorization.expiresIn * 1000);
  };
  const login = (replaced) =>
    client.login({
      label: options.label,
      replace: replaced?.id,
      openBrowser: options["no-browser"] ? false : undefined,
      signal,
      onAuthorization,
    });
  try {
    const isNew = options.replace === undefined;
    const account = await (isNew ? login() : withAccount(client, options.replace, login));
    return { value: account, lines: success(account) };
  } finally {
    stopCountdown();
  }
}

function instructions({ verificationUriComplete, userCode, expiresIn }) {
  return [
    "Open this address, and approve the login:",
    "",
    `  ${clean(verificationUriComplete)}`,
    "",
    `The code is ${clean(userCode)}. It is valid for ${duration(expiresIn * 1000)}.`,
  ];
}

function startCountdown(screen, ms) {
  if (!screen.isLive) return () => {};
  const end = Date.now() + ms;
  const draw = () => screen.draw([waiting(countdown(end - Date.now()), screen.columns)]);
  draw();
  const timer = setInterval(draw, TICK_MS);
  return () => {
    clearInterval(timer);
    screen.erase();
  };
}

/** The longest form that fits. */
function waiting(left, columns) {
  const forms = [`Waiting for your approval, ${left} left. Ctrl-C gives up.`, `Waiting, ${left} left.`];
  return forms.find((form) => width(form) <= columns) ?? left;
}

function success(account) {
  return [`Logged in as ${shown(account)}. It is the active account now.`];
}

module.exports = {
  summary: "log in to Qwen in a browser on any device",
  options: {
    label: { type: "string", value: "L", summary: "a name for the account" },
    replace: { type: "string", value: "<id|label>", summary: "renew this account instead of adding one" },
    "no-browser": { type: "boolean", summary: "only print the address, open no browser" },
  },
  run,
};
