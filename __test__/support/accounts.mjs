// Several accounts, each with its own server, so that each server shows which tokens it received.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startClient, startServer, temporaryHome } from "./harness.mjs";

export const NAMES = ["one", "two", "three"];

export const QUOTA_BUT_DEGRADED = {
  do: "quota",
  times: Infinity,
  match: ({ body }) => !(body?.max_tokens <= 1024),
};

/** Reads and writes the account store in a home directory. */
export function storeOf(home) {
  const path = join(home.directory, "oauth_accounts.json");
  return {
    path,
    bytes: () => readFileSync(path),
    read: () => JSON.parse(readFileSync(path, "utf8")),
    /** In one step, as every writer does it. */
    write(contents) {
      const isRaw = typeof contents === "string" || contents instanceof Uint8Array;
      writeFileSync(`${path}.next`, isRaw ? contents : JSON.stringify(contents, null, 2), { mode: 0o600 });
      renameSync(`${path}.next`, path);
      return readFileSync(path);
    },
  };
}

/** A record of the store, as the original plugin writes it. */
export const recordOf = (id, token, fields = {}) => ({
  id,
  token,
  resource_url: token.resource_url,
  exhaustedUntil: 0,
  createdAt: 1_700_000_000_000,
  updatedAt: 1_700_000_000_000,
  ...fields,
});

/**
 * Creates accounts that exist before the client starts. The first is the active one, and the qwen CLI's.
 *
 * @param {object} [options]
 * @param {string[]} [options.names] labels, which are also the accounts' names on the servers
 * @param {boolean} [options.shared] true: one server for all
 * @param {Record<string, object>} [options.tokens] arguments of `issueToken`, by name
 * @param {object} [options.client] options of the client
 * @param {object} [options.env] further variables
 */
export async function setUpAccounts(
  t,
  { names = NAMES, shared = false, tokens = {}, client: clientOptions, env } = {},
) {
  const servers = {};
  for (const name of names) servers[name] = (shared && servers[names[0]]) || (await startServer(t));
  const home = temporaryHome(t);
  const store = storeOf(home);
  const issued = Object.fromEntries(
    names.map((name) => [name, servers[name].issueToken({ account: name, ...tokens[name] })]),
  );
  home.write(issued[names[0]]);
  store.write({
    version: 1,
    activeAccountId: `id-${names[0]}`,
    credentialsAccountId: `id-${names[0]}`,
    accounts: names.map((name) => recordOf(`id-${name}`, issued[name], { label: name })),
  });
  const settings = {
    env: { ...home.env, ...env },
    oauth: { baseUrl: servers[names[0]].url },
    ...clientOptions,
  };
  const { client, events } = startClient(t, settings);
  const all = [...new Set(Object.values(servers))];
  return {
    servers,
    all,
    home,
    store,
    client,
    events,
    settings,
    /** Counts the chat requests of each account. */
    asked: () => countBy(all.flatMap((server) => server.seen("chat").map(({ account }) => account))),
    total: () => all.reduce((sum, server) => sum + server.stats.chats, 0),
  };
}

function countBy(values) {
  const counts = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

/** The events of these types, without fields that differ from run to run. */
export function told(events, ...types) {
  const wanted = events.filter(({ type }) => types.length === 0 || types.includes(type));
  return wanted.map((event) => {
    const { at: _, message: __, until: ___, ...rest } = event;
    return rest;
  });
}
