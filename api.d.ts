import qwen = require("./index.js");

export = qwen;
