/** The files of other Qwen plugins for OpenCode, each in its own form. */
export const OTHER_PLUGINS = {
  "opencode-qwen-auth": (...tokens) => ({
    version: 1,
    activeIndex: 0,
    accounts: tokens.map((token) => ({
      refreshToken: token.refresh_token,
      accessToken: token.access_token,
      expires: token.expiry_date,
      resourceUrl: token.resource_url,
      addedAt: 1,
      lastUsed: 1,
      health: { successCount: 3, failureCount: 0, consecutiveFailures: 0 },
    })),
  }),
  "opencode-qwencode-auth": (token) => ({ ...token, scope: "openid profile email model.completion" }),
  "opencode-qwen-oauth": (token) => ({
    accessToken: token.access_token,
    refreshToken: token.refresh_token,
    expiryDate: token.expiry_date,
    tokenType: "Bearer",
    resourceUrl: token.resource_url,
  }),
};
