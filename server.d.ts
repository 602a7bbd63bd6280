import qwen = require("./index.js");

/** The plugin as OpenCode 1.3.4 and later load it: 1.x calls `server`, 2.x calls `setup`. */
declare const plugin: {
  readonly id: "opencode-qwen-cli-auth";
  readonly server: typeof qwen.QwenAuthPlugin;
  /**
   * Registers the provider `qwen-code`, its logins and the command `/qwen` in OpenCode 2. Never rejects. Does nothing in a
   * context without `provider.transform`.
   *
   * @returns a function to call on unload, if anything was registered
   */
  setup(context: unknown): Promise<(() => Promise<void>) | undefined>;
};
export = plugin;
