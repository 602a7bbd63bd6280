const HOSTS = {
  "coding.dashscope.aliyuncs.com": { plan: "coding-plan", region: "cn" },
  "coding-intl.dashscope.aliyuncs.com": { plan: "coding-plan", region: "intl" },
  "token-plan.cn-beijing.maas.aliyuncs.com": { plan: "token-plan", region: "cn" },
  "token-plan.ap-southeast-1.maas.aliyuncs.com": { plan: "token-plan", region: "intl" },
  "dashscope.aliyuncs.com": { plan: "dashscope", region: "cn" },
  "dashscope-intl.aliyuncs.com": { plan: "dashscope", region: "intl" },
  "dashscope-us.aliyuncs.com": { plan: "dashscope", region: "us" },
  "cn-hongkong.dashscope.aliyuncs.com": { plan: "dashscope", region: "hk" },
  // Workspaces: one for each form of a region's name.
  "ws-1.ap-southeast-1.maas.aliyuncs.com": { plan: "dashscope", region: "intl" },
  "ws-1.eu-central-1.maas.aliyuncs.com": { plan: "dashscope", region: "eu-central-1" },
};
const PREFIX = /^\/plans\/([\w-]+)\/([\w-]+)(?=\/)/;
/** Programs that Coding Plan serves. */
const CODING_AGENTS = /(?:^|\s)(?:opencode|QwenCode|qwen-code|claude-cli|Cline)\//i;

/** Every host name of a plan and region. */
export const PLACE_HOSTS = Object.keys(HOSTS);

/**
 * Finds the plan and region of a request: from its host name, behind a proxy, or from a path that begins with
 * `/plans/<plan>/<region>`. With neither, this server takes all keys.
 *
 * @returns {{ place?: { plan: string, region: string }, path: string }} the path without the plan and region
 */
export function placeOf(url, host = "") {
  const path = url.split("?")[0];
  const named = PREFIX.exec(path);
  if (named) return { place: { plan: named[1], region: named[2] }, path: path.slice(named[0].length) };
  return { place: HOSTS[host.split(":")[0]], path };
}

/** Subscription keys begin with `sk-sp-`, but for the Token Plan's outside of China. */
export function keyPrefix(plan, region) {
  const isPlain = plan === "dashscope" || (plan === "token-plan" && region === "intl");
  return isPlain ? "sk-" : "sk-sp-";
}

/** True if the plan serves only known programs, and this is not one of them. */
export function refusesProgram(place, userAgent = "") {
  return place?.plan === "coding-plan" && !CODING_AGENTS.test(userAgent);
}
