import qwen = require("./index.js");

declare const plugin: { default: typeof qwen.QwenAuthPlugin };
export = plugin;
