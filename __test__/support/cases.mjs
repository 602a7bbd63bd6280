// Runs a module of cases in Node and in Bun: one process for each runtime, apart from the server, and one test for each
// case.
//
// A case is a function of `{ client, makeClient, server, settings }`. It uses only APIs that both runtimes have.

import assert from "node:assert/strict";
import { test } from "node:test";
import { withoutBun } from "./bun.mjs";
import { startChild } from "./child.mjs";
import { startServer, temporaryHome } from "./harness.mjs";

/** Time limit of each case. */
const LIMIT_MS = 120_000;
const SUPPORT = new URL(".", import.meta.url).href;

/**
 * @param {string} what subject of the cases
 * @param {string} module its file name in this directory; its export `cases` maps names to functions
 */
export async function testCases(what, module) {
  const { cases } = await import(`${SUPPORT}${module}`);
  const names = Object.keys(cases);
  for (const runtime of ["node", "bun"]) {
    test(`${what} in ${runtime}`, { skip: runtime === "bun" && withoutBun }, async (t) => {
      const server = await startServer(t);
      // A login for each case, so that cases don't affect each other.
      const clients = names.map(() => {
        const home = temporaryHome(t);
        home.write(server.issueToken());
        return { env: home.env, oauth: { baseUrl: server.url } };
      });
      const child = startChild(t, runtime, runCases, {
        args: runtime === "node" ? ["--expose-gc"] : [],
        data: { support: SUPPORT, module, url: server.url, clients, limitMs: LIMIT_MS },
      });
      for (const [index, name] of names.entries()) {
        await t.test(name, async () => {
          const result = await child.report(index, LIMIT_MS + 10_000);
          assert.equal(result.name, name);
          if (result.error) assert.fail(result.error);
        });
      }
      await t.test("no rejection is left unhandled, and the process ends", () => child.end());
      assert.deepEqual(server.failures, []);
    });
  }
}

async function runCases({ load, report, data }) {
  const { cases } = await import(`${data.support}${data.module}`);
  const { remoteServer } = await import(`${data.support}remote-server.mjs`);
  const { createClient } = await load();
  for (const [index, [name, run]] of Object.entries(cases).entries()) {
    const makeClient = (options) => createClient({ ...data.clients[index], ...options });
    const context = {
      client: makeClient(),
      makeClient,
      server: remoteServer(data.url),
      settings: data.clients[index],
    };
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`it takes longer than ${data.limitMs} ms`)), data.limitMs);
    });
    const error = await Promise.race([run(context), late]).then(
      () => null,
      (reason) => String(reason?.stack ?? reason),
    );
    clearTimeout(timer);
    report({ name, error });
  }
}
