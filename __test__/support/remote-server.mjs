// The local server as seen from another process, through its control endpoint. It uses only APIs that both Node and Bun
// have.

import { request } from "node:http";

/** Node's `fetch` can't connect in Wine; its `http` can. */
function control(url, method = "GET", body) {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json" };
    const call = request(`${url}/_control`, { method, headers, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (piece) => (text += piece));
      response.on("error", reject).on("end", () => {
        if (response.statusCode < 300) resolve(text);
        else reject(new Error(text));
      });
    });
    call.on("error", reject).end(body);
  });
}

/** @param {string} url of the server */
export function remoteServer(url) {
  const state = async () => JSON.parse(await control(url));
  const act = async (action, fields) => {
    const { result } = JSON.parse(await control(url, "POST", JSON.stringify({ action, ...fields })));
    return result;
  };
  return {
    url,
    state,
    script: (endpoint, ...steps) => act("script", { endpoint, steps }),
    act,
    /** Waits for the chat request with this index, in order of arrival. */
    async chat(index, fits = () => true, timeoutMs = 60_000) {
      const end = Date.now() + timeoutMs;
      for (;;) {
        const chats = (await state()).requests.filter(({ endpoint }) => endpoint === "chat");
        const entry = chats.at(index);
        if (entry && fits(entry)) return entry;
        if (Date.now() > end)
          throw new Error(`not within ${timeoutMs} ms: ${fits}; ${JSON.stringify(entry)}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
  };
}
