// Files as the original plugin left them: three logins with made-up tokens, the second out of quota.

const EXPIRY = 1_893_456_000_000;

const token = (name, hours) => ({
  access_token: `access-${name}-AAAA`,
  refresh_token: `refresh-${name}-BBBB`,
  token_type: "Bearer",
  expiry_date: EXPIRY + hours * 3_600_000,
  resource_url: "https://portal.qwen.ai",
});

const account = (id, name, hours, rest) => ({
  id,
  token: token(name, hours),
  resource_url: "https://portal.qwen.ai",
  exhaustedUntil: 0,
  ...rest,
});

export const IDS = ["acct_mwutdvyg_7078d7e9", "acct_mwutdvyi_60849c84", "acct_mwutdvyk_355ae76c"];

/** `oauth_accounts.json`, with the original's order of fields. */
export const STORE = {
  version: 1,
  activeAccountId: IDS[0],
  accounts: [
    account(IDS[0], "one", 0, {
      accountKey: "refresh:refresh-one-BBBB",
      createdAt: 1_795_531_986_952,
      updatedAt: 1_795_531_986_957,
    }),
    account(IDS[1], "two", 1, {
      exhaustedUntil: 1_795_533_786_957,
      lastErrorCode: "insufficient_quota",
      accountKey: "refresh:refresh-two-BBBB",
      createdAt: 1_795_531_986_954,
      updatedAt: 1_795_531_986_957,
    }),
    account(IDS[2], "three", 2, {
      accountKey: "refresh:refresh-three-BBBB",
      createdAt: 1_795_531_986_956,
      updatedAt: 1_795_531_986_956,
    }),
  ],
};

/** `oauth_creds.json` */
export const CREDENTIALS = token("one", 0);
