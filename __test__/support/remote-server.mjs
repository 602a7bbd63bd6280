/**
 * The local server as another process sees it, through its control endpoint. It needs nothing that Node and Bun do not
 * both have.
 *
 * @module
 */

const headers = { "content-type": "application/json" };
const control = (url, init) => fetch(`${url}/_control`, { headers, ...init });

/** @param {string} url of the server */
export function remoteServer(url) {
  const state = async () => (await control(url)).json();
  return {
    url,
    state,
    async script(endpoint, ...steps) {
      const body = JSON.stringify({ action: "script", endpoint, steps });
      const response = await control(url, { method: "POST", body });
      if (!response.ok) throw new Error(await response.text());
    },
    /** The chat request with this place in the order of arrival, once it fits. */
    async chat(index, fits = () => true, timeoutMs = 5000) {
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
