// A stand-in for OpenCode 2, written after its source (2.0.26), and as strict. It runs in Node and in Bun.
//
// It loads the plugin as a directory, sets it up once for each location, clones provider metadata, freezes models,
// accepts only JSON settings, keeps credentials, and calls the provider over HTTP as OpenCode's native package does.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const NATIVE = "@opencode/ai/providers/openai-compatible";
const METHOD_TYPES = ["oauth", "key", "env", "command", "external"];

function deepFreeze(value) {
  if (typeof value === "object" && value !== null) {
    Object.values(value).forEach(deepFreeze);
    Object.freeze(value);
  }
  return value;
}

/** Fails for values that JSON can't hold, such as `undefined`. */
function asJson(value, name) {
  if (value === undefined) return undefined;
  const decoded = JSON.parse(JSON.stringify(value));
  assert.deepEqual(value, decoded, `${name} is not plain JSON`);
  return decoded;
}

function checkModel(model, providerID) {
  const strings = ["id", "modelID", "providerID", "name"];
  for (const name of strings) assert.equal(typeof model[name], "string", `${model.id}.${name}`);
  assert.equal(model.providerID, providerID);
  assert.equal(typeof model.capabilities.tools, "boolean");
  for (const kind of ["input", "output"])
    assert.ok(model.capabilities[kind].every((one) => typeof one === "string"));
  assert.ok(
    Number.isInteger(model.limit.context) && Number.isInteger(model.limit.output),
    `${model.id}.limit`,
  );
  for (const { input, output, cache } of model.cost) {
    assert.ok([input, output, cache.read, cache.write].every(Number.isFinite), `${model.id}.cost`);
  }
  for (const variant of model.variants) {
    assert.equal(typeof variant.id, "string");
    asJson(variant.body, `${model.id}#${variant.id}.body`);
  }
  assert.ok(["alpha", "beta", "deprecated", "active"].includes(model.status));
  assert.equal(typeof model.enabled, "boolean");
  assert.ok(Number.isFinite(model.time.released));
}

export class Host {
  credentials = [];
  /** Connection updates that plugins reported. */
  statuses = [];
  locations = [];

  /** Loads the plugin in a directory by its file name, without package.json. */
  static async load(directory) {
    const host = new Host();
    const names = readdirSync(directory);
    const entry = ["server", "index"].flatMap((name) =>
      [".js", ".mjs", ".cjs", ".ts"].map((end) => name + end),
    );
    const file = entry.find((name) => names.includes(name));
    const module = await import(pathToFileURL(join(directory, file)).href);
    const plugin = module.default;
    assert.ok(typeof plugin === "object" && plugin !== null, `Expected object, got ${typeof plugin}`);
    assert.equal(typeof plugin.id, "string");
    assert.equal(typeof plugin.setup, "function");
    host.plugin = plugin;
    return host;
  }

  /** Sets the plugin up for a directory. `without` names domains that this version lacks. */
  async open({ options = {}, without = [] } = {}) {
    const location = new Location(this, options, without);
    this.locations.push(location);
    location.cleanup = await this.plugin.setup(location.context);
    assert.ok(["undefined", "function"].includes(typeof location.cleanup));
    return location;
  }

  async close() {
    for (const location of this.locations) await location.close();
  }

  active(integrationID) {
    return this.credentials.find((credential) => credential.integrationID === integrationID);
  }
}

class Location {
  disabled;
  #host;
  #transforms = { provider: [], integration: [], command: [] };
  synthetic = [];

  constructor(host, options, without) {
    this.#host = host;
    const domain = (name) => ({
      transform: async (callback) => {
        this.#transforms[name].push(callback);
        this.#run(name);
        return {
          dispose: async () => this.#transforms[name].splice(this.#transforms[name].indexOf(callback), 1),
        };
      },
      reload: async () => this.#run(name),
    });
    const connection = {
      active: async (id) => {
        const found = host.active(id);
        return found && { type: "credential", id: found.id, label: found.label, method: "oauth" };
      },
      resolve: async ({ id }) => host.credentials.find((credential) => credential.id === id)?.value,
      status: async (report) => {
        assert.equal(report.connection.type, "credential");
        if (report.status !== undefined) {
          assert.equal(report.status.status, "needs_auth");
          assert.equal(typeof report.status.message, "string");
        }
        host.statuses.push(report);
      },
    };
    const context = {
      app: {},
      location: {},
      options,
      provider: domain("provider"),
      integration: { ...domain("integration"), connection },
      command: domain("command"),
      session: {
        synthetic: async ({ sessionID, text }) => {
          assert.equal(typeof text, "string");
          this.synthetic.push({ sessionID, text });
        },
      },
    };
    for (const name of without) delete context[name];
    this.context = context;
  }

  /** Runs all transforms of a domain again. One that throws disables the plugin. */
  #run(name) {
    const editor = { provider: () => this.#providerEditor(), integration: () => this.#integrationEditor() };
    this[name] = new Map();
    const made = editor[name]?.() ?? { add: (command) => this.#addCommand(command) };
    for (const callback of this.#transforms[name]) {
      try {
        assert.equal(callback(made), undefined, "a transform is synchronous");
      } catch (error) {
        this.disabled = `Plugin disabled after ${name}.transform failed: ${error.stack}`;
        this.#transforms[name] = [];
      }
    }
  }

  #providerEditor() {
    return {
      add: ({ info, models }) => {
        assert.ok(Array.isArray(models));
        const provider = structuredClone(info);
        for (const name of ["id", "name", "package"]) assert.equal(typeof provider[name], "string", name);
        assert.ok(["auto", "enabled", "disabled"].includes(provider.activation));
        for (const name of ["settings", "headers", "body"]) asJson(provider[name], `info.${name}`);
        assert.ok(!models.some(Object.isFrozen), "frozen objects were handed out again");
        models.forEach((model) => checkModel(model, provider.id));
        this.provider.set(provider.id, { provider, models: deepFreeze(models) });
      },
    };
  }

  #integrationEditor() {
    return {
      update: (id, update) => {
        const integration = this.integration.get(id) ?? { id, name: id, methods: new Map() };
        update(integration);
        this.integration.set(id, integration);
      },
      method: {
        update: ({ integrationID, method, authorize, label }) => {
          assert.ok(METHOD_TYPES.includes(method.type), method.type);
          structuredClone(method);
          if (method.form)
            assert.ok(method.form.length > 0 && method.form.every(({ key, type }) => key && type));
          this.integration.get(integrationID).methods.set(method.id, { method, authorize, label });
        },
      },
    };
  }

  #addCommand({ name, execute, description }) {
    assert.equal(typeof execute, "function");
    this.command.set(name, { execute, description });
  }

  /** Runs a login to its end; `complete` returns the code. Returns the outcome of the attempt. */
  async login(integrationID, methodID, { answer = {}, code, approve } = {}) {
    const { authorize, label } = this.integration.get(integrationID).methods.get(methodID);
    const started = await authorize(answer);
    assert.equal(typeof started.url, "string");
    assert.equal(typeof started.instructions, "string");
    let value;
    try {
      if (started.mode === "auto") {
        assert.equal(typeof started.callback.then, "function", "a promise, and not a function");
        await approve?.(started);
        value = await started.callback;
      } else {
        value = await started.callback(code);
      }
    } catch (error) {
      return { status: "failed", message: error.message };
    }
    assert.deepEqual([value.type, value.methodID], ["oauth", methodID]);
    for (const name of ["access", "refresh"]) assert.equal(typeof value[name], "string");
    assert.ok(Number.isInteger(value.expires) && value.expires >= 0);
    const id = `cred_${this.#host.credentials.length}`;
    this.#host.credentials.unshift({ id, integrationID, label: label?.(value) ?? methodID, value });
    return { status: "complete", value };
  }

  /** Calls a model as the native package does. Returns every answer that OpenCode got, the last one last. */
  async chat(providerID, modelID, { variant, fields = {}, signal, retries = 3 } = {}) {
    const { provider, models } = this.provider.get(providerID);
    assert.equal(provider.package, NATIVE, "OpenCode would install it from npm");
    const model = models.find(({ id }) => id === modelID);
    assert.ok(model, `there is no model ${modelID}`);
    const credential = this.#host.active(provider.integrationID ?? provider.id)?.value;
    const overlay = variant === undefined ? {} : model.variants.find(({ id }) => id === variant);
    assert.ok(overlay, `there is no variant ${variant}`);
    const settings = asJson({ ...provider.settings, ...model.settings, ...credential?.metadata }, "settings");
    const { apiKey, baseURL, provider: _, ...providerOptions } = settings;
    const key = credential?.access ?? apiKey;
    const request = {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(key && { authorization: `Bearer ${key}` }),
        ...provider.headers,
        ...model.headers,
        "x-session-id": "ses_1",
        "user-agent": "opencode/2.0.26",
      },
      body: JSON.stringify({
        model: model.modelID,
        messages: [{ role: "user", content: "hello" }],
        stream: true,
        [model.compatibility?.maxTokensField ?? "max_tokens"]: model.limit.output,
        ...providerOptions,
        ...provider.body,
        ...model.body,
        ...overlay.body,
        ...fields,
      }),
      signal,
    };
    const answers = [];
    do {
      const response = await fetch(`${baseURL}/chat/completions`, request);
      answers.push({ status: response.status, headers: response.headers, text: await response.text() });
    } while (isRetried(answers.at(-1)) && answers.length <= retries);
    return answers;
  }

  async execute(name) {
    await this.command.get(name).execute({ sessionID: "ses_1", prompt: { text: "" }, delivery: "queue" });
    return this.synthetic.at(-1)?.text;
  }

  async close() {
    await this.cleanup?.();
    this.cleanup = undefined;
  }
}

/** Classifies an answer as OpenCode does, without its pauses. */
function isRetried({ status, headers, text }) {
  if (status < 400) return false;
  const told = headers.get("x-should-retry");
  if (told !== null) return told === "true";
  if (/insufficient_quota|usage limit|quota exceeded|limit exhausted/i.test(text)) return false;
  return (
    status === 429 ||
    status === 408 ||
    status === 409 ||
    status >= 500 ||
    /rate limit|too many requests/i.test(text)
  );
}
