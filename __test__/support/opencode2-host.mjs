// A stand-in for OpenCode 2, written after its source (2.0.26), and as strict. It runs in Node and in Bun.
//
// It loads the plugin as a directory, sets it up once for each location, clones provider metadata, freezes models,
// accepts only JSON settings, keeps credentials, and calls the provider over HTTP as OpenCode's native package does.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const NATIVE = "@opencode/ai/providers/openai-compatible";

function deepFreeze(value) {
  if (typeof value === "object" && value !== null) {
    Object.values(value).forEach(deepFreeze);
    Object.freeze(value);
  }
  return value;
}

/** Fails for values that JSON can't hold, such as `undefined`. */
function asJson(value, name) {
  const decoded = JSON.parse(JSON.stringify(value));
  assert.deepEqual(value, decoded, `${name} is not plain JSON`);
  return decoded;
}

/** A check that a field may be absent, but not `undefined`. */
const optional = (check) => Object.assign((value, name) => check(value, name), { isOptional: true });
const is = (type) => (value, name) => assert.equal(typeof value, type, name);
const number = (value, name) => assert.ok(Number.isFinite(value), name);
const integer = (value, name) => assert.ok(Number.isInteger(value) && value >= 0, name);
const oneOf =
  (...values) =>
  (value, name) =>
    assert.ok(values.includes(value), `${name}: ${value}`);
const list = (check) => (values, name) => {
  assert.ok(Array.isArray(values), name);
  values.forEach((value, index) => check(value, `${name}[${index}]`));
};
/** Checks an object that has these fields and no others. */
const record = (fields) => (value, name) => {
  for (const [field, check] of Object.entries(fields)) {
    if (field in value || !check.isOptional) check(value[field], `${name}.${field}`);
  }
  for (const field of Object.keys(value)) assert.ok(field in fields, `${name}.${field} is unknown`);
};

const overlays = { settings: optional(asJson), headers: optional(asJson), body: optional(asJson) };
const checkInfo = record({
  id: is("string"),
  integrationID: optional(is("string")),
  name: is("string"),
  activation: oneOf("auto", "enabled", "disabled"),
  package: is("string"),
  ...overlays,
});
const checkModel = record({
  id: is("string"),
  modelID: is("string"),
  providerID: is("string"),
  name: is("string"),
  capabilities: record({ tools: is("boolean"), input: list(is("string")), output: list(is("string")) }),
  limit: record({ context: integer, input: optional(integer), output: integer }),
  cost: list(
    record({
      input: number,
      output: number,
      cache: record({ read: number, write: number }),
      tier: optional(record({ type: oneOf("context"), size: integer })),
    }),
  ),
  variants: list(record({ id: is("string"), ...overlays })),
  compatibility: optional(
    record({
      reasoningField: optional(is("string")),
      maxTokensField: optional(oneOf("max_tokens", "max_completion_tokens")),
    }),
  ),
  status: oneOf("alpha", "beta", "deprecated", "active"),
  enabled: is("boolean"),
  time: record({ released: number }),
  ...overlays,
});
const checkMethod = record({
  id: is("string"),
  // A key method would keep the key in OpenCode's file.
  type: oneOf("oauth"),
  label: is("string"),
  form: optional(
    list(
      record({
        key: is("string"),
        type: oneOf("string", "number", "integer", "boolean", "multiselect"),
        title: optional(is("string")),
        required: optional(is("boolean")),
        hidden: optional(is("boolean")),
        options: optional(list(record({ value: is("string"), label: is("string") }))),
      }),
    ),
  ),
});
const checkAuthorization = record({
  url: is("string"),
  instructions: is("string"),
  expiresAt: optional(number),
  mode: oneOf("auto", "code"),
  callback: (callback) => assert.ok(callback),
});
const checkCredential = record({
  type: oneOf("oauth"),
  methodID: is("string"),
  access: is("string"),
  refresh: is("string"),
  expires: integer,
});
const checkReport = record({
  integrationID: is("string"),
  connection: record({
    type: oneOf("credential"),
    id: is("string"),
    label: is("string"),
    method: is("string"),
  }),
  status: (status, name) =>
    status &&
    record({ status: oneOf("needs_auth"), message: is("string"), url: optional(is("string")) })(status, name),
});

const checkHookOptions = record({ providerID: optional(is("string")) });
const checkHeaders = (headers, name) =>
  Object.entries(headers).forEach(([header, value]) => is("string")(value, `${name}.${header}`));

/** An editor that throws once its transform has returned. */
function revocable(editor) {
  let isOpen = true;
  const guard = (object) =>
    new Proxy(object, {
      get(target, name) {
        assert.ok(isOpen, "an editor was used after its transform");
        const value = target[name];
        return typeof value === "object" ? guard(value) : value;
      },
    });
  return { editor: guard(editor), revoke: () => (isOpen = false) };
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
    await location.boot(this.plugin);
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
  synthetic = [];
  #host;
  #isBooting = true;
  #transforms = { provider: [], integration: [], command: [] };
  #requestHooks = [];

  constructor(host, options, without) {
    this.#host = host;
    const domain = (name) => ({
      transform: async (callback) => {
        this.#transforms[name].push(callback);
        this.#run(name);
        const dispose = async () => {
          this.#transforms[name] = this.#transforms[name].filter((one) => one !== callback);
          this.#run(name);
        };
        return { dispose };
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
        checkReport(report, "status");
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
        hook: async (name, callback, options = {}) => {
          assert.equal(name, "model.request");
          checkHookOptions(options, "options");
          const hook = { callback, ...options };
          this.#requestHooks.push(hook);
          const dispose = async () => {
            this.#requestHooks = this.#requestHooks.filter((one) => one !== hook);
          };
          return { dispose };
        },
      },
    };
    for (const name of without) delete context[name];
    this.context = context;
  }

  async boot(plugin) {
    this.cleanup = await plugin.setup(this.context);
    assert.ok(["undefined", "function"].includes(typeof this.cleanup));
    this.#isBooting = false;
    this.reload();
  }

  /** Runs all transforms again, as a change of another plugin does. */
  reload() {
    for (const name of Object.keys(this.#transforms)) this.#run(name);
  }

  /** Runs all transforms of a domain, after the setup. One that throws disables the plugin. */
  #run(name) {
    if (this.#isBooting) return;
    const editors = {
      provider: () => this.#providerEditor(),
      integration: () => this.#integrationEditor(),
      command: () => ({ add: (command) => this.#addCommand(command) }),
    };
    this[name] = new Map();
    for (const callback of this.#transforms[name]) {
      const { editor, revoke } = revocable(editors[name]());
      try {
        assert.equal(callback(editor), undefined, "a transform is synchronous");
      } catch (error) {
        this.disabled = `Plugin disabled after ${name}.transform failed: ${error.stack}`;
        this.#transforms = { provider: [], integration: [], command: [] };
        this.reload();
      }
      revoke();
    }
  }

  #providerEditor() {
    return {
      add: ({ info, models }) => {
        const provider = structuredClone(info);
        checkInfo(provider, "info");
        list(checkModel)(models, "models");
        assert.ok(!models.some(Object.isFrozen), "frozen objects were handed out again");
        assert.ok(models.every(({ providerID }) => providerID === provider.id));
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
          checkMethod(structuredClone(method), "method");
          this.integration.get(integrationID).methods.set(method.id, { method, authorize, label });
        },
      },
    };
  }

  #addCommand({ name, execute, description }) {
    assert.equal(typeof execute, "function");
    this.command.set(name, { execute, description });
  }

  /** Starts a login. Its `outcome`, which takes the code if it needs one, stores the credential and returns the result. */
  async connect(integrationID, methodID, answer = {}) {
    const { method, authorize, label } = this.integration.get(integrationID).methods.get(methodID);
    for (const field of Object.keys(answer))
      assert.ok(
        method.form?.some(({ key }) => key === field),
        field,
      );
    const { callback, ...started } = await authorize(answer);
    checkAuthorization({ ...started, callback }, "authorization");
    const isPromise = typeof callback.then === "function";
    assert.equal(isPromise, started.mode === "auto", "a promise, and not a function");
    const outcome = async (code) => {
      try {
        const value = await (isPromise ? callback : callback(code));
        checkCredential(value, "credential");
        assert.equal(value.methodID, methodID);
        const id = `cred_${this.#host.credentials.length}`;
        this.#host.credentials.unshift({ id, integrationID, label: label?.(value) ?? methodID, value });
        return { status: "complete", value };
      } catch (error) {
        return { status: "failed", message: error.message };
      }
    };
    return { ...started, outcome };
  }

  /** Runs a login to its end. */
  async login(integrationID, methodID, { answer, code, approve } = {}) {
    const attempt = await this.connect(integrationID, methodID, answer);
    await approve?.(attempt);
    return attempt.outcome(code);
  }

  /** Returns the headers that the hooks of a request add. */
  async #hookHeaders(providerID, modelID, kind) {
    const model = Object.freeze({ id: modelID, providerID });
    const request = { sessionID: "ses_1", agent: "build", model, kind, headers: {} };
    for (const { callback, providerID: only = providerID } of this.#requestHooks) {
      if (only === providerID) await callback(request);
    }
    checkHeaders(request.headers, "headers");
    return request.headers;
  }

  /** Calls a model as the native package does. Returns every answer that OpenCode got, the last one last. */
  async chat(providerID, modelID, { kind = "primary", variant, fields = {}, signal, retries = 10 } = {}) {
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
        ...(await this.#hookHeaders(providerID, modelID, kind)),
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
    this.#transforms = { provider: [], integration: [], command: [] };
  }
}

/** Decides as OpenCode does, without its pauses. An answer's header decides before anything else. */
function isRetried({ status, headers, text }) {
  const events = text.split("\n\n").filter((event) => event.startsWith("data: {"));
  const parsed = status < 400 ? events.map((event) => JSON.parse(event.slice(6))) : [];
  const end = parsed.find(({ error, choices }) => error || choices?.[0]?.finish_reason);
  if (status < 400 && end && !end.error) return false;
  const told = headers.get("x-should-retry");
  if (told !== null) return told === "true";
  // An unfinished stream, or one with an unknown error.
  if (status < 400) return true;
  if ([401, 402, 403].includes(status)) return false;
  if (/insufficient_quota|usage limit|quota exceeded|limit exhausted/i.test(text)) return false;
  return [408, 409, 429].includes(status) || status >= 500 || /rate limit|too many requests/i.test(text);
}
