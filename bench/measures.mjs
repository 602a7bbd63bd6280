// The measures and their sizes.
import { CONTENDERS, obstacle } from "./contenders.mjs";
import { expireLogin, makeHome, removeHome } from "./homes.mjs";
import { measureLookups } from "./lookups.mjs";
import { figures, inTurns, relate } from "./turns.mjs";
import { measureStart, startContender } from "./workers.mjs";

/** A request body like that of an agent late in a long session. */
const LARGE_BODY = 3_500_000;
const BODY_SIZES = [10_000, 100_000, 1_000_000, LARGE_BODY, 10_000_000, 30_000_000];
const REDEMPTION_MS = 200;
const CALLS_AT_A_REFRESH = 64;
const ACCOUNTS = [1, 100];

/** Sizes of all measures. The short form only shows that everything runs. */
const FULL = {
  rounds: 7,
  starts: 11,
  heavyRounds: 3,
  latencies: 200,
  requests: [400, 3_000, 6_000],
  mib: 64,
  events: 102_400,
  idleMs: 3_000,
  cancels: 9,
  streams: 1_000,
  idleStreams: 100,
  sizes: BODY_SIZES,
  bodyRounds: 5,
  slowRequests: 2,
};
const QUICK = {
  rounds: 1,
  starts: 1,
  heavyRounds: 1,
  latencies: 20,
  requests: [20, 80, 128],
  mib: 4,
  events: 2_560,
  idleMs: 100,
  cancels: 1,
  streams: 50,
  idleStreams: 5,
  sizes: [10_000, LARGE_BODY],
  bodyRounds: 1,
  slowRequests: 0,
};

const isOurs = (name) => name === "client" || name === "plugin";
const hasOwnRequests = (name) => CONTENDERS[name].requests === "own" && !CONTENDERS[name].onlyForEditing;
const isAsked = (name, what) => CONTENDERS[name].only?.includes(what) ?? true;

/** Runs every measure in one runtime and passes each result to `record`. */
export async function measureRuntime({ runtime, server, isQuick, only, record, log }) {
  const size = isQuick ? QUICK : FULL;
  const wants = (id) => only === undefined || only.includes(id);
  const all = Object.keys(CONTENDERS);
  const add = (entry) => record({ runtime, ...entry });

  for (const contender of all) {
    const reason = obstacle(contender, runtime);
    if (reason !== undefined) add({ measure: "all", contender, reason });
  }
  const able = all.filter((name) => obstacle(name, runtime) === undefined);
  const isPlugin = (name) => CONTENDERS[name].file !== undefined && !CONTENDERS[name].isFloor;
  for (const contender of able.filter((name) => !hasOwnRequests(name) && isPlugin(name))) {
    add({
      measure: "requests of its own",
      contender,
      reason: `sends with ${CONTENDERS[contender].requests}`,
    });
  }

  if (wants("start")) {
    log("starts");
    await measureStarts({ runtime, server, size, contenders: able, add });
  }
  await measureRequests({ runtime, server, size, contenders: able, add, wants, log });
  if (wants("idle")) {
    log("idle readers");
    await eachAlone({ runtime, server, rounds: size.heavyRounds, contenders: ["client", "fetch"], add }, [
      {
        measure: "idle",
        unit: "MiB/stream",
        command: { command: "idle", streams: size.idleStreams, forMs: size.idleMs },
        pick: ({ mib }) => mib,
      },
    ]);
  }
  if (wants("gather")) {
    log(`${size.streams} streams at once`);
    const command = { command: "gather", streams: size.streams, mib: 1 };
    await eachAlone({ runtime, server, rounds: size.heavyRounds, contenders: ["client", "fetch"], add }, [
      { measure: "gather complete", unit: "streams", command, pick: ({ complete }) => complete },
      { measure: "gather cpu", unit: "us/MB", pick: ({ cpuUsPerMb }) => cpuUsPerMb },
      { measure: "gather speed", unit: "MB/s", better: "more", pick: ({ mbPerSecond }) => mbPerSecond },
      { measure: "gather memory", unit: "MiB", pick: ({ peakMib }) => peakMib },
    ]);
    // A new stream's buffers still grow. Memory that grows with the bytes shows after that.
    for (const [times, contenders] of [
      [4, ["client", "fetch"]],
      [16, ["client"]],
    ]) {
      const longer = { command: "gather", streams: size.streams, mib: times };
      await eachAlone({ runtime, server, rounds: 1, contenders, add }, [
        {
          measure: `gather memory, ${times} times the bytes`,
          unit: "MiB",
          command: longer,
          pick: ({ peakMib }) => peakMib,
        },
      ]);
    }
  }
  if (wants("refresh")) {
    log("a refresh met by 64 calls");
    const contenders = able.filter((name) => hasOwnRequests(name) && isAsked(name, "refresh"));
    await measureRefresh({ runtime, server, size, contenders, add });
  }
  if (wants("lookup")) {
    log("system calls of a look at the accounts");
    await measureLookups({ runtime, server, add });
  }
}

/** Measures in new processes, in turns: importing, and starting with few and many accounts. */
async function measureStarts({ runtime, server, size, contenders, add }) {
  // Both entries of this package load the same file.
  const plugins = contenders.filter((name) => CONTENDERS[name].file !== undefined && name !== "client");
  const homes = new Map(ACCOUNTS.map((accounts) => [accounts, makeHome(server.origin, { accounts })]));
  const kinds = [
    { measure: "import", what: "import", home: homes.get(1) },
    ...ACCOUNTS.map((accounts) => ({
      measure: `start, ${accounts} accounts`,
      what: "start",
      home: homes.get(accounts),
    })),
  ];
  for (const { measure, what, home } of kinds) {
    const files = plugins.filter((name) => what === "import" || !CONTENDERS[name].isFloor);
    const { results } = await inTurns(files, size.starts, async (contender) =>
      measureStart(runtime, contender, what, server.origin, home),
    );
    for (const contender of files) {
      const { values, error } = results[contender];
      add({ measure, contender, unit: "ms", ...figures(values.map(({ ms }) => ms)), reason: error });
      add({
        measure: `${measure}: memory`,
        contender,
        unit: "MiB",
        ...figures(values.map(({ mib }) => mib)),
        reason: error,
      });
    }
    relate(add, measure, files, results, ({ ms }) => ms, "plugin");
  }
  for (const home of homes.values()) removeHome(home);
}

/** Runs all measures of long-lived contenders, in turns. */
async function measureRequests({ runtime, server, size, contenders, add, wants, log }) {
  const names = contenders.filter((name) => CONTENDERS[name].requests === "own");
  const running = new Map();
  try {
    for (const name of names) {
      try {
        running.set(name, await startContender(runtime, name, server.origin));
      } catch (error) {
        add({ measure: "requests", contender: name, reason: error.message });
      }
    }
    const limitOf = (name, kind) => CONTENDERS[name].limits?.[kind];
    const usual = [...running.keys()].filter((name) => hasOwnRequests(name) && !limitOf(name, "slow"));
    const parallel = usual.filter((name) => !limitOf(name, "parallel"));
    for (const name of usual.filter((name) => limitOf(name, "parallel"))) {
      add({ measure: "parallel requests", contender: name, reason: limitOf(name, "parallel") });
    }
    const ask = (command) => async (contender) => running.get(contender).ask(command(contender));
    const one = async (measure, unit, better, all, command, pick, rounds = size.rounds) => {
      log(measure);
      const who = all.filter((name) => isAsked(name, command(name).command));
      await inTurns(who, 1, ask(command));
      const { results } = await inTurns(who, rounds, ask(command));
      for (const contender of who) {
        const { values, error } = results[contender];
        add({ measure, contender, unit, better, ...figures(values.map(pick)), reason: error });
      }
      relate(add, measure, who, results, pick, "fetch", better);
    };

    if (wants("latency")) {
      const latency = (who, count, times) => {
        const command = () => ({ command: "latency", count });
        return one("small request", "us", "less", who, command, ({ us }) => us, times);
      };
      await latency(usual, size.latencies);
      const slow = [...running.keys()].filter((name) => limitOf(name, "slow"));
      for (const name of slow) {
        const reason = limitOf(name, "slow");
        if (size.slowRequests === 0) add({ measure: "small request", contender: name, reason });
        else await latency([name], 1, size.slowRequests);
      }
    }
    for (const [index, width] of [1, 8, 64].entries()) {
      if (!wants("requests")) break;
      const who = width === 1 ? usual : parallel;
      const command = () => ({ command: "requests", count: size.requests[index], width });
      await one(`requests, ${width} at a time`, "/s", "more", who, command, ({ perSecond }) => perSecond);
    }
    if (wants("bytes")) {
      await one(
        "stream, 16 KiB chunks",
        "MB/s",
        "more",
        parallel,
        () => ({ command: "bytes", mib: size.mib }),
        ({ mbPerSecond }) => mbPerSecond,
      );
    }
    if (wants("events")) {
      await one(
        "stream, 200 B events",
        "/s",
        "more",
        parallel,
        () => ({ command: "events", count: size.events }),
        ({ perSecond }) => perSecond,
      );
    }
    const path = (contender) => CONTENDERS[contender].editsPath;
    const editors = [...running.keys()].filter((name) => !limitOf(name, "slow"));
    if (wants("blocked")) {
      for (const isAscii of [true, false]) {
        const measure = `3.5 MB body${isAscii ? "" : ", not only ASCII"}: main thread blocked`;
        await one(
          measure,
          "ms",
          "less",
          editors,
          (contender) => ({ command: "blocked", size: LARGE_BODY, path: path(contender), isAscii }),
          ({ ms }) => ms,
        );
      }
    }
    for (const bytes of wants("body") ? size.sizes : []) {
      await one(
        `body of ${bytes / 1_000} KB`,
        "ms",
        "less",
        editors,
        (contender) => ({ command: "body", size: bytes, path: path(contender) }),
        ({ ms }) => ms,
        size.bodyRounds,
      );
    }
    if (wants("cancel")) {
      await one(
        "cancel to socket closed",
        "ms",
        "less",
        ["client", "plugin", "fetch"],
        () => ({ command: "cancel", count: size.cancels }),
        ({ ms }) => ms,
        Math.min(3, size.rounds),
      );
    }
  } finally {
    for (const worker of running.values()) await worker.stop();
  }
}

/** Runs measures that need a new process for each contender and round. */
async function eachAlone({ runtime, server, rounds, contenders, add }, parts) {
  const command = parts[0].command;
  const { results } = await inTurns(contenders, rounds, async (contender) => {
    const worker = await startContender(runtime, contender, server.origin);
    try {
      return await worker.ask(command);
    } finally {
      await worker.stop();
    }
  });
  for (const { measure, unit, better, pick } of parts) {
    for (const contender of contenders) {
      const { values, error } = results[contender];
      add({ measure, contender, unit, ...figures(values.map(pick)), reason: error });
    }
    relate(add, measure, contenders, results, pick, "fetch", better);
  }
}

/** Sends 64 calls at once with an expired token. The server counts how often the refresh token is redeemed. */
async function measureRefresh({ runtime, server, size, contenders, add }) {
  await server.delay(REDEMPTION_MS);
  const names = contenders.filter((name) => name !== "fetch" && (size === FULL || isOurs(name)));
  const redeem = (calls) => async (contender) => {
    const worker = await startContender(runtime, contender, server.origin, { isExpired: !isOurs(contender) });
    try {
      // In a running session: the peers check their login only at their start.
      if (isOurs(contender)) {
        await worker.ask({ command: "requests", count: size.requests[1], width: CALLS_AT_A_REFRESH });
        expireLogin(worker.home);
      }
      const before = (await server.stats()).redemptions;
      const result = await worker.ask({ command: "refresh", calls });
      return { ...result, redemptions: (await server.stats()).redemptions - before };
    } finally {
      await worker.stop();
    }
  };
  const ours = names.filter(isOurs);
  const alone = await inTurns(ours, size.heavyRounds, redeem(1));
  for (const contender of ours) {
    const { values, error: reason } = alone.results[contender];
    const after = figures(values.map(({ slowestMs }) => slowestMs - REDEMPTION_MS));
    add({ measure: "1 call, token expired: after the redemption", contender, unit: "ms", ...after, reason });
  }
  const { results } = await inTurns(ours, size.heavyRounds, redeem(CALLS_AT_A_REFRESH));
  // A peer that redeems for every call takes long.
  Object.assign(
    results,
    (
      await inTurns(
        names.filter((name) => !isOurs(name)),
        1,
        redeem(CALLS_AT_A_REFRESH),
      )
    ).results,
  );
  await server.delay(0);
  for (const contender of names) {
    const { values, error } = results[contender];
    const slowest = values
      .filter(({ answered }) => answered > 0)
      .map(({ slowestMs }) => slowestMs - REDEMPTION_MS);
    const reason = error ?? values.find(({ reason }) => reason)?.reason;
    add({
      measure: "64 calls, token expired: answered",
      contender,
      unit: "calls",
      ...figures(values.map(({ answered }) => answered)),
      reason,
    });
    add({
      measure: "64 calls, token expired: redemptions",
      contender,
      unit: "times",
      ...figures(values.map(({ redemptions }) => redemptions)),
      reason: error,
    });
    add({
      measure: "64 calls, token expired: slowest call after the redemption",
      contender,
      unit: "ms",
      ...figures(slowest),
      reason: error,
    });
  }
}
