const HOSTS = {
  "coding.dashscope.aliyuncs.com": { plan: "coding-plan", region: "cn" },
  "coding-intl.dashscope.aliyuncs.com": { plan: "coding-plan", region: "intl" },
  "token-plan.cn-beijing.maas.aliyuncs.com": { plan: "token-plan", region: "cn" },
  "token-plan.ap-southeast-1.maas.aliyuncs.com": { plan: "token-plan", region: "intl" },
  "dashscope.aliyuncs.com": { plan: "dashscope", region: "cn" },
  "dashscope-intl.aliyuncs.com": { plan: "dashscope", region: "intl" },
  "dashscope-us.aliyuncs.com": { plan: "dashscope", region: "us" },
};
const PREFIX = /^\/plans\/([\w-]+)\/([\w-]+)(?=\/)/;

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
