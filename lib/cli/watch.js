"use strict";

// The list of accounts, kept up to date: drawn anew on a terminal, printed again after a change elsewhere.

const { setTimeout: sleep } = require("node:timers/promises");
const { overview } = require("./overview");
const { accountsTable } = require("./table");
const { clean, json } = require("./text");

const INTERVAL_MS = 1000;

/** Ends, as it should, when the signal is aborted. */
async function watch({ client, options, signal, screen, notes, tellNotes }) {
  const isDrawn = screen.isLive && !options.json;
  const show = isDrawn ? drawer(screen, notes) : printer(screen, options, notes, tellNotes);
  const showCursor = isDrawn ? screen.hideCursor() : () => {};
  try {
    let accounts = await overview(client, notes);
    let problem;
    while (!signal.aborted) {
      show(accounts, problem);
      await sleep(INTERVAL_MS, undefined, { signal });
      [accounts, problem] = await lookAgain(client, notes, accounts);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    screen.keep();
    showCursor();
  }
}

/** A file that can't be read for a moment must not end a watch that has begun. */
async function lookAgain(client, notes, before) {
  try {
    return [await overview(client, notes)];
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
      ...accountsTable(accounts, { columns: screen.columns, now: Date.now(), style: screen.style }),
      ...below.map(clean),
    ]);
  };
}

function printer(screen, options, notes, tellNotes) {
  const told = new Set();
  let last;
  return (accounts, problem) => {
    for (const note of notes.splice(0)) {
      if (!told.has(note)) notes.push(note);
      told.add(note);
    }
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
