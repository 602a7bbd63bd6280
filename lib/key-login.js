"use strict";

// How a key is added in OpenCode. It is asked for as a login code is: so OpenCode keeps what stands for the account, and
// not the key. A method of the type `api` would write the key into its own file.

const { pageLines, pagesOf } = require("./key-pages");

const ANY = "";

const PROMPTS = [
  {
    type: "select",
    key: "plan",
    message: "Which plan is the key of?",
    options: [
      { label: "I don't know: find out", value: ANY },
      { label: "Token Plan", value: "token-plan" },
      { label: "Coding Plan", value: "coding-plan" },
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
      { label: "United States (DashScope)", value: "us" },
      { label: "Hong Kong (DashScope)", value: "hk" },
    ],
  },
];

/** OpenCode has no hidden prompt for a code, so the user has to know before pasting. */
const VISIBLE =
  "The key is visible while you paste it here. To enter it hidden, cancel and run `npx opencode-qwen-cli-auth add-key`.";

/**
 * The login methods for keys: one that asks nothing but the key, and one that asks for plan and region too, for which
 * OpenCode needs a terminal.
 *
 * @param {(key: string, choice: { plan?: string, region?: string }) => Promise<object>} add resolves with what OpenCode
 *   is to keep
 */
function keyMethods(add) {
  const authorize = async (inputs) => {
    const choice = { plan: inputs?.plan || undefined, region: inputs?.region || undefined };
    return {
      url: pagesOf(choice)[0].page,
      instructions: `Paste a key of a Token Plan, a Coding Plan or DashScope. ${VISIBLE} Key pages: ${pageLines(choice).join("; ")}`,
      method: "code",
      callback: (key) => add(key, choice),
    };
  };
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
