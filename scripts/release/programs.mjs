// Small programs that use the installed package as users do. Each exits with 0 on success.

/** Creates a client and asks the core for a token without a login. */
const USE = `
const client = createClient({ env: { HOME: home, USERPROFILE: home } });
client.accounts().then((accounts) => {
  client.close();
  if (accounts.length > 0 || !client.baseUrl.startsWith("https://")) throw new Error("not as it has to be");
});
`;

const HOME = `const home = process.cwd() + "/home";`;

export const require = `const { createClient } = require("opencode-qwen-cli-auth");\n${HOME}${USE}`;

export const api = `const { createClient } = require("opencode-qwen-cli-auth/api");\n${HOME}${USE}`;

export const esModule = `import plugin, { createClient } from "opencode-qwen-cli-auth";
import api from "opencode-qwen-cli-auth/api";
if (api.QwenAuthPlugin !== plugin || api.createClient !== createClient) throw new Error("two of them");
${HOME}${USE}`;

export const worker = `
const { Worker, isMainThread } = require("node:worker_threads");
if (isMainThread) {
  let left = 4;
  for (let count = left; count > 0; count -= 1) {
    new Worker(__filename).on("exit", (code) => {
      if (code !== 0) process.exit(1);
      left -= 1;
    });
  }
  process.on("exit", () => { if (left > 0) process.exitCode = 1; });
} else {
${require}
}`;

/** Without the addon, the package loads and reports the missing file when it is used. */
export const withoutAddon = `
const { createClient, QwenAuthPlugin } = require("opencode-qwen-cli-auth");
try {
  createClient();
} catch (error) {
  const { code, name, message } = error;
  if (code === "ERR_QWEN_NATIVE_BINDING" && name === "QwenAuthError" && message.includes(process.argv[2])) {
    process.stdout.write(message + "\\n");
    process.exit(0);
  }
  throw error;
}
throw new Error("it made a client");
`;

/** Compiler options and a program of a TypeScript user. */
export const typescript = {
  node16: { module: "node16", moduleResolution: "node16" },
  bundler: { module: "esnext", moduleResolution: "bundler" },
};
