"use strict";

// The list of accounts, kept up to date: drawn anew on a terminal, printed again after a change elsewhere.

const { setTimeout: sleep } = require("node:timers/promises");
const { accountsTable } = require("./table");
const { clean, json } = require("./text");

const INTERVAL_MS = 1000;

/** Ends, as it should, when the signal is aborted. */
async function watch({ client, options, signal, screen, notes, tellNotes }) {
  const show = screen.isLive && !options.json ? drawer(screen, notes) : printer(screen, options, tellNotes);
  try {
    let accounts = await client.accounts();
    let problem;
    while (!signal.aborted) {
      show(accounts, problem);
      await sleep(INTERVAL_MS, undefined, { signal });
      [accounts, problem] = await lookAgain(client, accounts);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    screen.keep();
  }
}

/** A file that can't be read for a moment must not end a watch that has begun. */
async function lookAgain(client, before) {
  try {
    return [await client.accounts()];
  } catch (error) {
    return [before, error.message];
  }
}

function drawer(screen, notes) {
  const shown = new Set();
  return (accounts, problem) => {
    // Anything printed beside the table would be drawn over.
    for (const note of notes.splice(0)) shown.add(note);
    const below = problem === undefined ? [...shown] : [...shown, problem];
    screen.draw([
      ...accountsTable(accounts, { columns: screen.columns, now: Date.now() }),
      ...below.map(clean),
    ]);
  };
}

function printer(screen, options, tellNotes) {
  let last;
  return (accounts, problem) => {
    tellNotes();
    const content = json(accounts) + (problem ?? "");
    if (content === last) return;
    if (options.json) {
      screen.print(json(accounts));
    } else {
      const table = accountsTable(accounts, { columns: screen.columns, now: Date.now() });
      screen.print(...(last === undefined ? [] : [""]), ...table, ...(problem ? [clean(problem)] : []));
    }
    last = content;
  };
}

module.exports = { watch };
