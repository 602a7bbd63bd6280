const HOSTS = {
  "coding.dashscope.aliyuncs.com": { plan: "coding-plan", region: "cn" },
  "coding-intl.dashscope.aliyuncs.com": { plan: "coding-plan", region: "intl" },
  "token-plan.cn-beijing.maas.aliyuncs.com": { plan: "token-plan", region: "cn" },
  "token-plan.ap-southeast-1.maas.aliyuncs.com": { plan: "token-plan", region: "intl" },
  "dashscope.aliyuncs.com": { plan: "dashscope", region: "cn" },
  "dashscope-intl.aliyuncs.com": { plan: "dashscope", region: "intl" },
  "dashscope-us.aliyuncs.com": { plan: "dashscope", region: "us" },
  "cn-hongkong.dashscope.aliyuncs.com": { plan: "dashscope", region: "hk" },
  // Workspaces, one for each form of a region's name.
  "ws-1.ap-southeast-1.maas.aliyuncs.com": { plan: "dashscope", region: "intl" },
  "ws-1.eu-central-1.maas.aliyuncs.com": { plan: "dashscope", region: "eu-central-1" },
};
const PREFIX = /^\/plans\/([\w-]+)\/([\w-]+)(?=\/)/;
/** Programs that Coding Plan serves. */
const CODING_AGENTS = /(?:^|\s)(?:opencode|QwenCode|qwen-code|claude-cli|Cline)\//i;

/** Every host name that stands for a place. */
export const PLACE_HOSTS = Object.keys(HOSTS);

/**
 * Which plan and region a request is addressed to: by its host name, as behind a proxy, or by a path that begins with
 * `/plans/<plan>/<region>`. Neither: this server takes the keys of all.
 *
 * @returns {{ place?: { plan: string, region: string }, path: string }} the path without what names the place
 */
export function placeOf(url, host = "") {
  const path = url.split("?")[0];
  const named = PREFIX.exec(path);
  if (named) return { place: { plan: named[1], region: named[2] }, path: path.slice(named[0].length) };
  return { place: HOSTS[host.split(":")[0]], path };
}

/** Keys of a subscription begin with `sk-sp-`, but for the Token Plan's outside of China. */
export function keyPrefix(plan, region) {
  const isPlain = plan === "dashscope" || (plan === "token-plan" && region === "intl");
  return isPlain ? "sk-" : "sk-sp-";
}

/** True where a place serves only programs that it knows, and this is none of them. */
export function refusesProgram(place, userAgent = "") {
  return place?.plan === "coding-plan" && !CODING_AGENTS.test(userAgent);
}
