// Cases of the plugin in the stand-in for OpenCode 2, for Node and Bun.

import assert from "node:assert/strict";
import { existsSync, readFileSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Host } from "./opencode2-host.mjs";

const CHECKOUT = fileURLToPath(new URL("../..", import.meta.url));
const PROVIDER = "qwen-code";
const PLACEHOLDER = "opencode-qwen-cli-auth:acct_1";

const credentialsOf = ({ settings }) => join(settings.env.HOME, ".qwen/oauth_creds.json");

/** Runs `work` with a host whose process knows only this case's home and server. */
async function withHost({ settings, server }, work) {
  const variables = { ...settings.env, OPENCODE_QWEN_OAUTH_BASE_URL: server.url };
  Object.assign(process.env, variables);
  const host = await Host.load(CHECKOUT);
  try {
    await work(host);
    for (const { disabled } of host.locations) assert.equal(disabled, undefined);
  } finally {
    await host.close();
    for (const name of Object.keys(variables)) delete process.env[name];
  }
}

function logIn(location, { server }) {
  const approve = ({ url }) =>
    server.act("approve", { userCode: new URL(url).searchParams.get("user_code") });
  return location.login(PROVIDER, "oauth", { approve });
}

async function until(condition) {
  for (const end = Date.now() + 60_000; !condition();) {
    assert.ok(Date.now() < end, String(condition));
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const isOpen = (url) =>
  fetch(`${url}/models`).then(
    () => true,
    () => false,
  );

export const cases = {
  async "a login of the qwen CLI is enough to list models and to chat"(context) {
    await withHost(context, async (host) => {
      const location = await host.open();
      const { provider, models } = location.provider.get(PROVIDER);
      assert.deepEqual([provider.integrationID, provider.activation], [PROVIDER, "enabled"]);
      assert.ok(models.some(({ id, limit }) => id === "coder-model" && limit.output === 65_536));
      const vision = models.find(({ id }) => id === "vision-model");
      assert.ok(vision.capabilities.input.includes("image"));
      const [answer, ...more] = await location.chat(PROVIDER, "coder-model");
      assert.deepEqual([answer.status, more.length], [200, 0]);
      assert.match(answer.text, /\[DONE\]/);
      assert.ok(!JSON.stringify(host.credentials).includes(provider.headers["x-qwen-gateway-key"]));
    });
  },

  async "directories share one gateway, which closes with the last"(context) {
    await withHost(context, async (host) => {
      const [one, other] = await Promise.all([host.open(), host.open({ options: { degrade: false } })]);
      const url = one.provider.get(PROVIDER).provider.settings.baseURL;
      assert.equal(other.provider.get(PROVIDER).provider.settings.baseURL, url);
      assert.match(await other.execute("qwen"), /first one/);
      const wrong = await host.open({ options: { rotation: "sideways" } });
      assert.equal(wrong.provider.get(PROVIDER).provider.settings.baseURL, url);
      assert.match(await wrong.execute("qwen"), /rotation.*The first one's are used for all\./);
      await wrong.close();
      await one.close();
      assert.equal(await isOpen(url), true);
      assert.equal((await other.chat(PROVIDER, "coder-model"))[0].status, 200);
      await other.close();
      assert.equal(await isOpen(url), false);
      const again = await host.open();
      assert.equal((await again.chat(PROVIDER, "coder-model"))[0].status, 200);
    });
  },

  async "a login stores a placeholder, and its gateway accepts no other key"(context) {
    await withHost(context, async (host) => {
      const location = await host.open();
      const { status, value } = await logIn(location, context);
      assert.equal(status, "complete");
      assert.match(value.access, /^opencode-qwen-cli-auth:/);
      assert.equal(value.metadata, undefined);
      assert.equal((await location.chat(PROVIDER, "coder-model"))[0].status, 200);
      const url = location.provider.get(PROVIDER).provider.settings.baseURL;
      const stranger = await fetch(`${url}/models`, { headers: { authorization: `Bearer ${value.access}` } });
      assert.equal(stranger.status, 401);
    });
  },

  async "a new login ends the one before, also after a change of another plugin"(context) {
    await withHost(context, async (host) => {
      const location = await host.open();
      const first = await location.connect(PROVIDER, "oauth");
      location.reload();
      assert.equal((await logIn(location, context)).status, "complete");
      const { status, message } = await first.outcome();
      assert.equal(status, "failed");
      assert.match(message, /Another login/);
    });
  },

  async "a refused key is reported with the reason"(context) {
    await withHost(context, async (host) => {
      const location = await host.open();
      const refused = await location.login(PROVIDER, "key", { code: "nonsense" });
      assert.equal(refused.status, "failed");
      assert.ok(refused.message.length > 20 && !refused.message.includes("nonsense"), refused.message);
    });
  },

  async "a key that another program adds brings its models, in all directories"(context) {
    const ids = ({ provider }) => provider.get(PROVIDER).models.map(({ id }) => id);
    const key = await context.server.act("addKey", { plan: "coding-plan" });
    const baseUrl = `${context.server.url}/v1`;
    await withHost(context, async (host) => {
      const locations = [await host.open(), await host.open()];
      assert.ok(!ids(locations[0]).includes("qwen3-coder-next"));
      // The command line writes the same files.
      const added = await context.client.addApiKey({ key, plan: "coding-plan", baseUrl });
      await until(() => locations.every((location) => ids(location).includes("qwen3-coder-next")));
      assert.equal((await locations[1].chat(PROVIDER, "qwen3-coder-next"))[0].status, 200);
      await context.client.removeAccount(added.id);
      await until(() => locations.every((location) => !ids(location).includes("qwen3-coder-next")));
    });
  },

  async "a final error is shown once"(context) {
    const steps = [
      [{ do: "quota" }, 402],
      [
        { do: "answer", status: 409, body: { error: { message: "rate limit" } } },
        400,
        "invalid_request_error",
      ],
      [{ do: "hang" }, 504],
    ];
    for (const [step, status] of steps) {
      await withHost(context, async (host) => {
        const location = await host.open({ options: { idleTimeoutMs: 1_000 } });
        await context.server.script("chat", { ...step, times: "always" });
        const answers = await location.chat(PROVIDER, "coder-model");
        await context.server.act("clearScripts", { endpoint: "chat" });
        assert.deepEqual(
          answers.map(({ status }) => status),
          [status],
        );
        assert.equal(answers[0].headers.get("x-should-retry"), "false");
        assert.ok(JSON.parse(answers[0].text).error.message);
        await logIn(location, context);
      });
    }
  },

  async "a limit of tokens per minute is waited for, whatever the server's words are"(context) {
    const error = {
      code: "insufficient_quota",
      message: "You exceeded your current quota, please check your plan and billing details.",
    };
    const key = await context.server.act("addKey", { plan: "coding-plan" });
    await withHost(context, async (host) => {
      const baseUrl = `${context.server.url}/v1`;
      await context.client.addApiKey({ key, plan: "coding-plan", baseUrl });
      const location = await host.open();
      await context.server.script("chat", { do: "answer", status: 429, body: { error }, times: "always" });
      const answers = await location.chat(PROVIDER, "qwen3-coder-next", { retries: 2 });
      await context.server.act("clearScripts", { endpoint: "chat" });
      assert.equal(answers.length, 3);
      for (const { status, headers } of answers) {
        assert.deepEqual([status, headers.get("x-should-retry")], [429, "true"]);
        assert.ok(Number(headers.get("retry-after")) > 0);
      }
    });
  },

  async "a shorter request is never sent for a summary, a title or an unnamed kind"(context) {
    for (const [kind, status, without = []] of [
      ["compaction", 402],
      ["title", 402],
      // A version without the hook.
      ["primary", 402, ["session"]],
      ["primary", 200],
    ]) {
      await withHost(context, async (host) => {
        const location = await host.open({ without });
        await context.server.script("chat", { do: "quota" });
        const answers = await location.chat(PROVIDER, "coder-model", { kind });
        await context.server.act("clearScripts", { endpoint: "chat" });
        const degraded = answers[0].headers.get("x-qwen-degraded");
        assert.deepEqual(
          [answers.length, answers[0].status, degraded],
          [1, status, status === 200 ? "1" : null],
        );
        await logIn(location, context);
      });
    }
  },

  async "an unfinished stream ends with the reason, and is not asked for again"(context) {
    const half = { choices: [{ index: 0, delta: { content: "half" } }] };
    const steps = [
      { do: "cut", after: 2 },
      { do: "no_finish" },
      { do: "stall", after: 3 },
      { do: "events", events: [{ json: half }, { json: { error: { message: "broken" } } }] },
    ];
    await withHost(context, async (host) => {
      const location = await host.open({ options: { idleTimeoutMs: 1_000 } });
      for (const step of steps) {
        await context.server.script("chat", { ...step, times: "always" });
        const answers = await location.chat(PROVIDER, "coder-model");
        await context.server.act("clearScripts", { endpoint: "chat" });
        assert.deepEqual([answers.length, answers[0].status], [1, 200], step.do);
        assert.doesNotMatch(answers[0].text, /DONE/);
        const { error } = JSON.parse(answers[0].text.trim().split("data: ").at(-1));
        assert.match(error.code, /^ERR_QWEN_/);
        assert.ok(error.message.length > 20, error.message);
      }
    });
  },

  async "the command shows the accounts and asks no model"(context) {
    await withHost(context, async (host) => {
      const location = await host.open();
      assert.match(await location.execute("qwen"), /ready/);
    });
  },

  async "a context without a domain loses only that part"(context) {
    await withHost(context, async (host) => {
      for (const without of [
        ["integration"],
        ["command"],
        ["session"],
        ["integration", "command", "session"],
      ]) {
        const location = await host.open({ without });
        assert.equal((await location.chat(PROVIDER, "coder-model"))[0].status, 200, String(without));
        if (without.includes("session") && location.command.size > 0) await location.execute("qwen");
        await location.close();
      }
    });
  },

  async "a needed login is reported on the connection, and cleared afterwards"(context) {
    await withHost(context, async (host) => {
      const path = credentialsOf(context);
      const token = JSON.parse(readFileSync(path, "utf8"));
      const value = {
        type: "oauth",
        methodID: "oauth",
        access: PLACEHOLDER,
        refresh: PLACEHOLDER,
        expires: 4e12,
      };
      host.credentials.push({ id: "cred_0", integrationID: PROVIDER, label: "oauth", value });
      const location = await host.open();
      await context.server.act("revokeAccess", { token: token.access_token });
      await context.server.act("revokeRefresh", { token: token.refresh_token });
      const answers = await location.chat(PROVIDER, "coder-model");
      assert.deepEqual([answers.length, answers[0].status], [1, 401]);
      await until(() => host.statuses.length === 1);
      const [{ integrationID, connection, status }] = host.statuses;
      assert.deepEqual([integrationID, connection.id, status.status], [PROVIDER, "cred_0", "needs_auth"]);
      await logIn(location, context);
      await until(() => host.statuses.length === 2);
      assert.equal(host.statuses[1].status, undefined);
      assert.equal((await location.chat(PROVIDER, "coder-model"))[0].status, 200);
    });
  },

  async "tokens of OpenCode 1 are adopted if there is no account"(context) {
    const file = credentialsOf(context);
    unlinkSync(file);
    const token = await context.server.act("issueToken", {});
    await withHost(context, async (host) => {
      const value = {
        type: "oauth",
        methodID: "oauth",
        access: token.access_token,
        refresh: token.refresh_token,
        expires: token.expiry_date,
      };
      host.credentials.push({ id: "cred_v1", integrationID: PROVIDER, label: "oauth", value });
      const location = await host.open();
      await until(() => existsSync(file));
      assert.match(await location.execute("qwen"), /ready/);
    });
  },

  async "an older context is ignored"(context) {
    await withHost(context, async (host) => {
      for (const older of [undefined, {}, { catalog: { transform() {} }, provider: {} }]) {
        assert.equal(await host.plugin.setup(older), undefined);
      }
    });
  },

  async "invalid options are reported at login"(context) {
    await withHost(context, async (host) => {
      const location = await host.open({ options: { rotation: "sideways" } });
      assert.equal(location.provider.size, 0);
      const { status, message } = await location.login(PROVIDER, "oauth");
      assert.equal(status, "failed");
      assert.match(message, /rotation/);
      assert.match(await location.execute("qwen"), /rotation/);
    });
  },
};
