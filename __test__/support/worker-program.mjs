// A worker thread of lifecycle.spec.mjs: starts calls of every kind, reports that, and ends as told.

import { parentPort, workerData } from "node:worker_threads";
import qwen from "opencode-qwen-cli-auth/api";

const { client: options, ending } = workerData;
const client = qwen.createClient(options);
const ignored = (promise) => void promise.catch(() => {});
const controller = new AbortController();

function chat(text) {
  return client.fetch(`${client.baseUrl}/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ model: "coder-model", stream: true, messages: [{ role: "user", content: text }] }),
    headers: { "content-type": "application/json" },
    signal: controller.signal,
  });
}

const response = await chat("SAY 3");
await response.text();
const stream = (await chat("stall please")).body.getReader();
await stream.read();
ignored(stream.read());
ignored(chat("hang please"));
ignored(client.login({ openBrowser: false, signal: controller.signal }));
ignored(client.getAccessToken());
ignored(client.accounts());
ignored(qwen.requestDeviceAuthorization({ ...options.oauth, signal: controller.signal }));
ignored(qwen.refreshAccessToken("unknown", { ...options.oauth, signal: controller.signal }));

// oxlint-disable-next-line require-post-message-target-origin -- a thread has no origin
parentPort.postMessage("started");
if (ending === "exit") process.exit(0);
if (ending === "close") {
  client.close();
  controller.abort();
}
