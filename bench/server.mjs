// The benchmark server, in its own process. It parses only the HTTP/1.1 that contenders send, because a real HTTP
// library would be slower than some of them and distort the results.
//
// The request header `x-bench` chooses the answer:
//
//   small             a chat completion of 250 bytes
//   bytes:<MiB>       a stream of 16 KiB chunks
//   events:<count>    a stream of chat events of 200 bytes, each in a chunk of its own
//   endless           16 KiB chunks for as long as somebody reads
//   hold:<key>        the head and one chunk, then nothing; the control connection hears when the socket closes
//   silent:<key>      nothing; the control connection hears of the request (`+<key>`), and when the socket closes
//   gather:<n>,<MiB>  as bytes, once n such requests are there
//
// `POST …/token` redeems after the delay of `/delay`. `GET /stats` returns the counters.
import { createServer } from "node:net";

const CHUNK_SIZE = 16 * 1024;
const FAR_FUTURE_S = 24 * 3_600;
const HEAD_END = Buffer.from("\r\n\r\n");

const frame = (data) => Buffer.from(`${data.length.toString(16)}\r\n${data}\r\n`);
const repeat = (buffer, count) => Buffer.concat(Array.from({ length: count }, () => buffer));

const LAST_CHUNK = Buffer.from("0\r\n\r\n");
/** Written in pieces of 256 KiB, so that the server's own calls don't matter. */
const CHUNKS_A_PIECE = 16;
const CHUNK = frame("x".repeat(CHUNK_SIZE));
const PIECE = repeat(CHUNK, CHUNKS_A_PIECE);

const EVENT = (() => {
  const event = (content) =>
    `data: ${JSON.stringify({ id: "bench", object: "chat.completion.chunk", created: 0, model: "coder-model", choices: [{ index: 0, delta: { content }, finish_reason: null }] })}\n\n`;
  return frame(event("x".repeat(200 - event("").length)));
})();
const EVENTS_A_PIECE = 256;
const EVENTS = repeat(EVENT, EVENTS_A_PIECE);
const LAST_EVENT = Buffer.concat([
  frame(`data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] })}\n\n`),
  frame("data: [DONE]\n\n"),
  LAST_CHUNK,
]);

const stream = (type) =>
  Buffer.from(`HTTP/1.1 200 OK\r\ncontent-type: ${type}\r\ntransfer-encoding: chunked\r\n\r\n`);
const BYTES = stream("application/octet-stream");
const SSE = stream("text/event-stream");

function json(value) {
  const body = JSON.stringify(value);
  return Buffer.from(
    `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

const SMALL = json({
  id: "bench",
  object: "chat.completion",
  created: 0,
  model: "coder-model",
  choices: [{ index: 0, message: { role: "assistant", content: "Hello." }, finish_reason: "stop" }],
  usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
});

const stats = { requests: 0, redemptions: 0, lastToken: "", bodyBytes: 0 };
let redemptionDelayMs = 0;
/** Control connections that receive reports of held answers. */
const watchers = new Set();
const report = (text) => watchers.forEach((watcher) => watcher.write(`${text}\n`));
/** Requests that wait until enough of them have arrived. */
let gathered = [];

/** Writes a piece repeatedly, at the reader's pace. */
function pour(socket, piece, count, end) {
  let left = count;
  const more = () => {
    while (left > 0) {
      left -= 1;
      if (!socket.write(piece)) return;
    }
    socket.off("drain", more);
    socket.write(end);
  };
  socket.on("drain", more);
  more();
}

const answers = {
  small: (socket) => socket.write(SMALL),
  bytes: (socket, mib) => {
    socket.write(BYTES);
    pour(socket, PIECE, (mib * 1024 * 1024) / CHUNK_SIZE / CHUNKS_A_PIECE, LAST_CHUNK);
  },
  events: (socket, count) => {
    socket.write(SSE);
    pour(socket, EVENTS, count / EVENTS_A_PIECE, LAST_EVENT);
  },
  endless: (socket) => {
    socket.write(BYTES);
    pour(socket, PIECE, Number.POSITIVE_INFINITY, LAST_CHUNK);
  },
  hold: (socket, key) => {
    socket.write(Buffer.concat([BYTES, CHUNK]));
    socket.once("close", () => report(key));
  },
  silent: (socket, key) => {
    report(`+${key}`);
    socket.once("close", () => report(key));
  },
  gather: (socket, count, mib) => {
    gathered.push(socket);
    if (gathered.length < count) return;
    for (const waiting of gathered) answers.bytes(waiting, mib);
    gathered = [];
  },
};

function respond(socket, head) {
  const { path } = head;
  stats.requests += 1;
  if (path.endsWith("/token")) {
    stats.redemptions += 1;
    const number = stats.redemptions;
    const token = {
      access_token: `bench-access-new-${number}`,
      refresh_token: `bench-refresh-new-${number}`,
    };
    const rest = { token_type: "Bearer", expires_in: FAR_FUTURE_S, resource_url: origin };
    setTimeout(() => socket.write(json({ ...token, ...rest })), redemptionDelayMs);
    return;
  }
  if (path === "/stats") {
    socket.write(json(stats));
    return;
  }
  if (path.startsWith("/delay/")) {
    redemptionDelayMs = Number(path.slice("/delay/".length));
    socket.write(json({}));
    return;
  }
  if (path === "/watch") {
    watchers.add(socket);
    socket.once("close", () => watchers.delete(socket));
    return;
  }
  stats.lastToken = head.token;
  answers[head.kind](socket, ...head.values);
}

const heads = new Map();
const MAX_HEADS = 1_000;

/** Returns the parsed head. Contenders repeat the same head, so it is parsed once. */
function readHead(text) {
  let head = heads.get(text);
  if (head === undefined) {
    const field = (name) => new RegExp(`^${name}: *([^\\r]*)`, "im").exec(text)?.[1];
    const [kind, values = ""] = (field("x-bench") ?? "small").split(":");
    head = {
      path: text.split(" ", 2)[1].replace(/\?.*/, ""),
      length: Number(field("content-length") ?? 0),
      token: field("authorization")?.replace(/^Bearer /i, "") ?? "",
      kind,
      values: values.split(",").map(Number),
    };
    if (heads.size >= MAX_HEADS) heads.clear();
    heads.set(text, head);
  }
  return head;
}

/** Reads the requests of a connection. */
function onConnection(socket) {
  socket.setNoDelay(true);
  let pending = [];
  let size = 0;
  /** Remaining bytes of the current request's body. */
  let bodyLeft = 0;
  let current;

  const finish = () => {
    const head = current;
    current = undefined;
    respond(socket, head);
  };

  const read = (bytes) => {
    let rest = bytes;
    while (rest.length > 0) {
      if (current !== undefined) {
        const taken = Math.min(bodyLeft, rest.length);
        stats.bodyBytes += taken;
        bodyLeft -= taken;
        rest = rest.subarray(taken);
        if (bodyLeft === 0) finish();
        continue;
      }
      const end = rest.indexOf(HEAD_END);
      if (end < 0) {
        pending = [rest];
        size = rest.length;
        return;
      }
      current = readHead(rest.latin1Slice(0, end));
      rest = rest.subarray(end + HEAD_END.length);
      bodyLeft = current.length;
      if (bodyLeft === 0) finish();
    }
  };

  socket.on("data", (bytes) => {
    if (size === 0) return read(bytes);
    const all = Buffer.concat([...pending, bytes]);
    pending = [];
    size = 0;
    read(all);
  });
  socket.on("error", () => socket.destroy());
}

let origin;
const server = createServer(onConnection);
server.listen(0, "127.0.0.1", 4096, () => {
  origin = `http://127.0.0.1:${server.address().port}`;
  console.log(origin);
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
