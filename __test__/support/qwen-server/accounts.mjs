import { keyPrefix } from "./places.mjs";
import { newSecret } from "./secrets.mjs";

const SCOPE = "openid profile email model.completion";

/**
 * Access to the API: accounts with their quota, the tokens of each login (a family of tokens
 * that are refreshed from one another), and API keys.
 */
export class Accounts {
  #options;
  #stats;
  #accounts = new Map();
  #access = new Map();
  #refresh = new Map();
  #keys = new Map();
  #origin;

  /** All secrets ever handed out, device codes included. */
  issued = [];

  constructor(options, stats, origin) {
    this.#options = options;
    this.#stats = stats;
    this.#origin = origin;
  }

  /** @param {string} name */
  get(name) {
    if (typeof name !== "string" || !name) throw new TypeError("account must be a non-empty string");
    if (!this.#accounts.has(name)) {
      this.#accounts.set(name, { name, left: Infinity, refusal: {}, cached: new Set() });
    }
    return this.#accounts.get(name);
  }

  names() {
    return [...new Set([...this.#options.accounts, ...this.#accounts.keys()])];
  }

  setQuota(name, left, refusal = {}) {
    const account = this.get(name);
    account.left = left ?? Infinity;
    account.refusal = refusal;
  }

  /** Adds a login; `given` may hold existing tokens, such as a fixture's. */
  login(name, { expiresIn, given = {} } = {}) {
    const family = { account: this.get(name), revoked: false };
    return this.#issue(family, expiresIn ?? this.#options.expiresIn, given);
  }

  #issue(family, expiresIn, given = {}) {
    const refresh = given.refresh_token ?? newSecret("rt");
    this.#refresh.set(refresh, { family, revoked: false, spentAt: undefined, answer: undefined });
    this.issued.push(refresh);
    return { ...this.#issueAccess(family, expiresIn, given.access_token), refresh_token: refresh };
  }

  #issueAccess(family, expires_in, access_token = newSecret("at")) {
    this.#access.set(access_token, { family, expiresAt: Date.now() + expires_in * 1000, revoked: false });
    this.issued.push(access_token);
    return {
      access_token,
      token_type: "Bearer",
      resource_url: this.#origin(),
      scope: SCOPE,
      expires_in,
    };
  }

  refreshAccount(token) {
    return this.#refresh.get(token)?.family.account;
  }

  /**
   * Redeems a refresh token. A spent one ends its whole family, as a stolen token would.
   *
   * @returns {{ tokens: object, record: object } | undefined} undefined: refused
   */
  redeem(token) {
    const record = this.#refresh.get(token);
    if (!record) return undefined;
    if (record.spentAt !== undefined) {
      this.#stats[record.answer === "lost" ? "replays" : "doubleRedemptions"] += 1;
      record.family.revoked = true;
    }
    if (record.revoked || record.family.revoked) return undefined;
    this.#stats.redemptions += 1;
    record.spentAt = Date.now();
    record.answer = "pending";
    return { tokens: this.#issue(record.family, this.#options.expiresIn), record };
  }

  /** @param {{ region?: string }} given without a region, it works in all regions of its plan */
  addKey({ key, plan = "dashscope", region, account, models } = {}) {
    const made = key ?? `${keyPrefix(plan, region)}${newSecret("key")}`;
    const owner = this.get(account ?? `key-${this.#keys.size + 1}`);
    this.#keys.set(made, { account: owner, plan, region, models });
    this.issued.push(made);
    return made;
  }

  /**
   * @param {{ plan: string, region: string } | undefined} place the addressed plan and region; keys are bound to theirs
   * @returns {{ account?: object, kind?: "oauth" | "api-key", plan?: string, region?: string, ok: boolean }}
   */
  authenticate(bearer, place) {
    const key = this.#keys.get(bearer);
    if (key) {
      const region = key.region ?? place?.region;
      return { ...key, region, kind: "api-key", ok: !key.revoked && belongs(key, place) };
    }
    const token = this.#access.get(bearer);
    if (!token) return { ok: false };
    const isValid = !token.revoked && !token.family.revoked && Date.now() < token.expiresAt;
    return { account: token.family.account, kind: "oauth", ok: isValid && this.#options.freeTier };
  }

  revokeAccess(token) {
    const record = this.#access.get(token) ?? this.#keys.get(token);
    if (record) record.revoked = true;
    return Boolean(record);
  }

  revokeAllAccess(name) {
    for (const record of this.#access.values()) {
      if (!name || record.family.account.name === name) record.revoked = true;
    }
  }

  revokeRefresh(token) {
    const record = this.#refresh.get(token);
    if (record) record.revoked = true;
    return Boolean(record);
  }
}

function belongs({ plan, region }, place) {
  return place === undefined || (place.plan === plan && (region ?? place.region) === place.region);
}
