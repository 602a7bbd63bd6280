// A certified OpenID provider with a public client for the device flow, and a user who approves or denies on its
// pages.

import assert from "node:assert/strict";
import http from "node:http";

export const CLIENT_ID = "a-device";
export const SCOPE = "openid offline_access";

/** Starts a provider that is closed when the test ends. @returns {Promise<{ url: string, options: object }>} */
export async function startOidcProvider(t) {
  // It warns of development defaults, which the test wants.
  const { warn, info } = console;
  Object.assign(console, { warn() {}, info() {} });
  t.after(() => Object.assign(console, { warn, info }));
  const { Provider } = await import("oidc-provider");
  const server = http.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(url, {
    clients: [
      {
        client_id: CLIENT_ID,
        token_endpoint_auth_method: "none",
        application_type: "native",
        grant_types: ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
        redirect_uris: [],
        response_types: [],
      },
    ],
    features: { deviceFlow: { enabled: true } },
    rotateRefreshToken: true,
    ttl: { AccessToken: 1800, DeviceCode: 300 },
    cookies: { keys: ["a key of the test"] },
  });
  server.on("request", provider.callback());
  const options = {
    baseUrl: url,
    deviceAuthorizationEndpoint: `${url}/device/auth`,
    tokenEndpoint: `${url}/token`,
    clientId: CLIENT_ID,
    scope: SCOPE,
  };
  return { url, options };
}

/** Goes through the provider's pages as a user's browser does. */
export async function decideInBrowser(address, decision) {
  const browser = new Browser();
  let page = await browser.open(address);
  for (let pages = 0; page.form; pages += 1) {
    assert.ok(pages < 8, `too many pages; the last was ${page.text}`);
    const denies = decision === "deny" && page.text.includes('name="abort"');
    page = await browser.submit(page.form, {
      login: "ada",
      password: "any",
      ...(denies && { abort: "yes" }),
    });
    if (denies) break;
  }
  return page.text;
}

class Browser {
  #cookies = new Map();

  async open(address, init = {}) {
    let url = new URL(address);
    for (let redirects = 0; redirects < 10; redirects += 1) {
      const cookie = [...this.#cookies].map(([name, value]) => `${name}=${value}`).join("; ");
      const response = await fetch(url, {
        ...init,
        headers: { ...init.headers, cookie },
        redirect: "manual",
      });
      for (const line of response.headers.getSetCookie()) {
        const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
        this.#cookies.set(name, value);
      }
      const location = response.headers.get("location");
      if (!location) return this.#read(await response.text(), url);
      url = new URL(location, url);
      init = {};
    }
    return assert.fail(`too many redirects, the last to ${url}`);
  }

  #read(text, url) {
    const form = /<form[^>]*action="([^"]*)"[^>]*>([^]*?)<\/form>/.exec(text);
    if (!form) return { text };
    const fields = [...form[2].matchAll(/<input[^>]*>/g)].map(([input]) => [
      /name="([^"]*)"/.exec(input)?.[1],
      /value="([^"]*)"/.exec(input)?.[1] ?? "",
    ]);
    return { text, form: { action: new URL(form[1], url), fields: Object.fromEntries(fields) } };
  }

  submit({ action, fields }, answers) {
    const body = new URLSearchParams(fields);
    for (const [name, value] of Object.entries(answers)) {
      if (name in fields || name === "abort") body.set(name, value);
    }
    return this.open(action, { method: "POST", body });
  }
}
