"use strict";

// How a key is added in OpenCode. It is asked for as a login code is: so OpenCode keeps what stands for the account, and
// not the key. A method of the type `api` would write the key into its own file.

/** Where the keys of each plan are made. */
const CONSOLE = "https://bailian.console.aliyun.com/?tab=model#/api-key";
const ANY = "";

const PROMPTS = [
  {
    type: "select",
    key: "plan",
    message: "What is the key of?",
    options: [
      { label: "I don't know: find out", value: ANY },
      { label: "Coding Plan", value: "coding-plan" },
      { label: "Token Plan", value: "token-plan" },
      { label: "DashScope (billed by use)", value: "dashscope" },
    ],
  },
  {
    type: "select",
    key: "region",
    message: "In which region?",
    options: [
      { label: "I don't know: find out", value: ANY },
      { label: "China", value: "cn" },
      { label: "International", value: "intl" },
      { label: "United States", value: "us" },
    ],
  },
];

/**
 * The login methods for keys: one that asks nothing but the key, and one that asks for plan and region too, for which
 * OpenCode needs a terminal.
 *
 * @param {(key: string, choice: { plan?: string, region?: string }) => Promise<object>} add resolves with what OpenCode
 *   is to keep
 */
function keyMethods(add) {
  const authorize = async (inputs) => ({
    url: CONSOLE,
    instructions:
      "Paste a key of a Coding Plan, a Token Plan or DashScope. Its plan and region are found out.",
    method: "code",
    callback: (key) => add(key, { plan: inputs?.plan || undefined, region: inputs?.region || undefined }),
  });
  return [
    { type: "oauth", label: "Coding Plan, Token Plan or DashScope key", authorize },
    {
      type: "oauth",
      label: "Coding Plan, Token Plan or DashScope key (choose plan and region)",
      prompts: PROMPTS,
      authorize,
    },
  ];
}

module.exports = { keyMethods };
