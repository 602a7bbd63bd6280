"use strict";

// Keeps the list of accounts up to date: redraws it on a terminal, and otherwise prints it again after a change.

const { setTimeout: sleep } = require("node:timers/promises");
const { overview } = require("./overview");
const { accountsTable } = require("./table");
const { clean, json } = require("./text");

const INTERVAL_MS = 1000;

/** Resolves when the signal is aborted. */
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

/** Returns the previous accounts if they can't be read now, so that the watch continues. */
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
    // Notes are part of the table, since the next draw would overwrite printed text.
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
