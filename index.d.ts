/**
 * Qwen accounts for OpenCode and for any Node or Bun program: device login, token refresh that is safe across
 * processes, and a `fetch` that sends each request with the right token to the right host.
 *
 * Importing it starts no thread and opens no file or socket. Every rejection is a {@link qwen.QwenAuthError}; an
 * abort rejects with the signal's reason.
 *
 * @packageDocumentation
 */

declare namespace qwen {
  /**
   * The OAuth server and the client id. The defaults are Qwen's server and the official CLI's public client.
   *
   * OAuth servers must be https, or http on loopback. Redirects are not followed. Responses are limited to 1 MiB.
   */
  interface OAuthOptions {
    /**
     * Base of the two endpoints that are not set: `{baseUrl}/api/v1/oauth2/device/code` and `{baseUrl}/api/v1/oauth2/token`.
     *
     * @defaultValue `OPENCODE_QWEN_OAUTH_BASE_URL`, else `https://chat.qwen.ai`
     */
    baseUrl?: string;
    /** The device authorization endpoint (RFC 8628 section 3.1). */
    deviceAuthorizationEndpoint?: string;
    /** The token endpoint (RFC 6749 section 3.2). */
    tokenEndpoint?: string;
    /** A public client's id (RFC 6749 section 2.2). @defaultValue Qwen Code's */
    clientId?: string;
    /** Scopes, separated by spaces (RFC 6749 section 3.3). @defaultValue `openid profile email model.completion` */
    scope?: string;
    /** Limit of one HTTP request and its response, in milliseconds: 1 to 2147483647. @defaultValue 30000 */
    timeoutMs?: number;
    /** Aborts the call, which then rejects with the signal's reason. */
    signal?: AbortSignal;
  }

  /** A login that is waiting for the user's approval (RFC 8628 section 3.2). */
  interface DeviceAuthorization {
    /** Exchanged for tokens after the user's approval. A secret. */
    deviceCode: string;
    /** Code for the user to type or compare. */
    userCode: string;
    /** Address for the user to open. */
    verificationUri: string;
    /** The same address with the user code in it. Equals `verificationUri` if the server sends none. */
    verificationUriComplete: string;
    /** Lifetime of both codes, in seconds. */
    expiresIn: number;
    /** Minimum time between two polls, in seconds. 5 if the server sends none. */
    interval: number;
    /** The PKCE verifier of this request (RFC 7636 section 4.1). A secret. */
    codeVerifier: string;
  }

  /** Tokens from the server (RFC 6749 section 5.1). */
  interface Token {
    /** Authorizes API requests. A secret. */
    accessToken: string;
    /** Redeemed once for the next access token. If a refresh returns none, the old one stays valid. */
    refreshToken?: string;
    /** `Bearer`, in practice. */
    tokenType: string;
    /** The API host of the token as Qwen sends it, often without a scheme. */
    resourceUrl?: string;
    /** The granted scope. */
    scope?: string;
    /** When the access token expires, in epoch milliseconds. One hour from now if the server sends no lifetime. */
    expiresAt: number;
  }

  /** Settings of a client. An option takes precedence over the environment, and the environment over the default. */
  interface ClientOptions {
    /**
     * The complete environment, including `HOME` and proxies. It is read once.
     *
     * @defaultValue `process.env`
     */
    env?: Record<string, string | undefined>;
    /** The OAuth server. Its `signal` is ignored, since each call takes its own. */
    oauth?: OAuthOptions;
    /**
     * API base URL for OAuth accounts, instead of each account's own: https, or http on loopback. `/v1` is appended if the
     * path doesn't end with it.
     *
     * @defaultValue `OPENCODE_QWEN_BASE_URL`, else the account's `resource_url`
     */
    baseUrl?: string;
    /**
     * Path of the account store: a `.json` file inside the Qwen directory, after resolving links, and not a file of the qwen
     * CLI. A relative path is inside that directory.
     *
     * @defaultValue `OPENCODE_QWEN_ACCOUNTS_PATH`, else `oauth_accounts.json` there
     */
    accountsPath?: string;
    /**
     * Pause of an account that is out of quota, in milliseconds: 1 to 2147483647. A longer `Retry-After` from the server takes
     * precedence.
     *
     * @defaultValue `OPENCODE_QWEN_QUOTA_COOLDOWN_MS`, else 1800000
     */
    quotaCooldownMs?: number;
    /**
     * Order of the accounts:
     * - `sequential`: the active account until it is out of quota
     * - `round-robin`: another account for each request
     * - `hybrid`: like `sequential`, but each process starts with another account
     *
     * @defaultValue `OPENCODE_QWEN_ROTATION`, else `sequential`
     */
    rotation?: "sequential" | "round-robin" | "hybrid";
    /**
     * True to try a shorter request (at most 1,024 output tokens, without the oldest turns) when every account is out of
     * quota.
     *
     * @defaultValue `OPENCODE_QWEN_DEGRADE`, else `true`
     */
    degrade?: boolean;
    /**
     * True to ask the qwen CLI when every account is out of quota, and the shorter request failed too. The CLI uses its own
     * login or key, which may cost money: turning this on is the user's consent.
     *
     * @defaultValue `OPENCODE_QWEN_ENABLE_CLI_FALLBACK`, else `false`
     */
    cliFallback?: boolean;
    /**
     * True to let requests switch to a more expensive kind of account when the cheaper ones can't answer. The order is
     * free logins, subscription plans, metered keys. The active account is always used.
     *
     * @defaultValue `OPENCODE_QWEN_ALLOW_PAID_FALLBACK`, else `false`
     */
    allowPaidFallback?: boolean;
    /**
     * True to give chat bodies the official CLI's shape: one system message first, no role `developer`, cache markers,
     * `metadata`, `vl_high_resolution_images`. Output limits apply in any case.
     *
     * @defaultValue `QWEN_MODE`, else `true`
     */
    qwenMode?: boolean;
    /** Time limit for connecting, in milliseconds: 1 to 2147483647. @defaultValue 10000 */
    connectTimeoutMs?: number;
    /**
     * Maximum time without data, including the wait for the headers, in milliseconds: 1 to 2147483647. There is no limit for
     * the whole request.
     *
     * @defaultValue 300000
     */
    idleTimeoutMs?: number;
    /** Receives events for the user. Its errors are ignored. */
    onEvent?: (event: QwenEvent) => void;
  }

  /** An event for the user. It never contains a secret. */
  interface QwenEvent {
    /**
     * - `refreshed`: a refresh token was redeemed
     * - `needs-login`: an account needs a new login
     * - `retry`: a request or a refresh is retried
     * - `config`: a setting could not be read and its default is used, or another note about settings and files
     * - `exhausted`: an account is out of quota
     * - `switched`: requests now go to another account
     * - `ready`: an account that was out of quota has answered again
     * - `degraded`: every account is out of quota, and a shorter request was answered; the message names the omitted parts
     * - `cli-fallback`: every account is out of quota, and the qwen CLI answered
     * - `needs-attention`: a refreshed login can't be saved where the qwen CLI or the next process looks for it. The login is
     *   lost unless the user follows the message
     * - `store-repaired`: a damaged file was moved aside, or an unknown login was found
     */
    type:
      | "refreshed"
      | "needs-login"
      | "retry"
      | "config"
      | "exhausted"
      | "switched"
      | "ready"
      | "degraded"
      | "cli-fallback"
      | "needs-attention"
      | "store-repaired";
    /** Time of the event, in epoch milliseconds. */
    at: number;
    /** One line for the user. */
    message: string;
    /** The account concerned. */
    accountId?: string;
    /** The account's name. */
    label?: string;
    /** For `switched`: the account that was used before. */
    fromAccountId?: string;
    /** The code of the error that caused the event. */
    code?: ErrorCode;
    /** For `exhausted`: the end of the pause, in epoch milliseconds. */
    until?: number;
  }

  /** An account. It never contains a token. */
  interface Account {
    /** Never changes. */
    id: string;
    /** Display name. */
    label: string;
    /** A login of qwen.ai, or a key of a plan. */
    kind: "oauth" | "api-key";
    /** True for the account that the user has chosen. Requests go to it first, and quota doesn't change that. */
    active: boolean;
    /** False for a disabled account, which gets no requests. See {@link QwenClient.updateAccount}. */
    enabled: boolean;
    /** The plan of a key. Missing for logins, and for keys of other servers than Alibaba's. */
    plan?: "coding-plan" | "token-plan" | "dashscope";
    /** The region of the plan, such as `"cn"` or `"intl"`, if it is known. */
    region?: string;
    /** True for a key whose requests are billed by use. Missing for logins and subscriptions. */
    billedByUse?: true;
    /**
     * `ready` for requests, `cooling` while it is out of quota or rate limited, `needs-login` after its tokens were rejected.
     */
    state: "ready" | "cooling" | "needs-login";
    /** The API base URL for its token. */
    baseUrl: string;
    /** Expiry of its access token, in epoch milliseconds. Tokens are refreshed automatically. Missing for keys. */
    expiresAt?: number;
    /** End of the pause, in epoch milliseconds. */
    coolingUntil?: number;
    /** The used-up quota window, while the account is `cooling` for that reason. */
    quotaWindow?: "5-hour" | "7-day" | "weekly" | "monthly";
    /** Creation time, in epoch milliseconds. */
    createdAt: number;
    /** Time of the last change, in epoch milliseconds. */
    updatedAt: number;
    /** The last error, until the next success. `at` is in epoch milliseconds. */
    lastError?: { code: ErrorCode; message: string; at: number };
  }

  /** A key that another tool has stored. The key itself is not included. */
  interface FoundCredential {
    /** The file or the environment variable with the key. */
    source: string;
    /** The other tool's name for the provider: `"environment"` for variables, `"qwen-cli"` for the qwen CLI's settings. */
    provider: string;
    /** Its plan, if the entry names it. */
    plan?: "coding-plan" | "token-plan" | "dashscope";
    /** The region of the plan, if the entry names it. Otherwise the plan's servers are asked during the import. */
    region?: string;
    /** The base URL, if the entry names it. It may be a server that is not an API server of these plans. */
    baseUrl?: string;
    /** The last four characters of the key. Empty for a key of less than twelve. */
    lastFour: string;
    /** True if an account has this key. */
    known: boolean;
  }

  /** A model of one or more accounts. */
  interface Model {
    /** The id for requests. */
    id: string;
    /** A name for users. */
    name: string;
    /** Context window (input and output together), in tokens. */
    context: number;
    /** Maximum output, in tokens. */
    output: number;
    /** Content types that a message may have. */
    input: ("text" | "image" | "pdf" | "video")[];
    /** Ids of the accounts with this model, in the order in which they are asked. Empty without an account. */
    accounts: string[];
    /** Controls of its thinking. Missing for a model without them. */
    thinking?: {
      /** True if `enable_thinking` in a request turns it on and off. */
      toggle?: boolean;
      /** The values that `reasoning_effort` in a request takes, from low to high. */
      efforts?: string[];
      /** Maximum `thinking_budget` of a request, in tokens, if it is known. */
      budget?: number;
      /** True if thinking can't be turned off. */
      mandatory?: boolean;
    };
  }

  /**
   * The usage of an account, counted by this package in all processes of the user. The server's own count may differ, since
   * it includes other programs and uses other windows.
   */
  interface Usage {
    /** The account's id. */
    accountId: string;
    /** The account's name. */
    label: string;
    /** In the current clock hour. */
    hour: UsageCounts;
    /** In the current clock hour and the four before it: the last 4 to 5 hours. */
    fiveHours: UsageCounts;
    /** Since midnight, local time. */
    today: UsageCounts;
    /** Today and in the six days before. */
    week: UsageCounts;
    /** Today and in the 29 days before. */
    month: UsageCounts;
    /**
     * Estimated use of a Coding Plan's limits by this machine, for a key that was added with its tier (`lite` or
     * `pro`): for five hours (the current clock hour and the four before it), the week (from Monday 00:00 UTC+8), and
     * the last 30 days, because the start of a plan's month is unknown. Requests of other machines are not included.
     * Missing for other plans, whose limits don't count requests. `percent` is rounded down and may exceed 100.
     */
    estimates?: {
      window: "5-hour" | "weekly" | "monthly";
      requests: number;
      limit: number;
      percent: number;
    }[];
    /**
     * The last 48 clock hours with any usage, oldest first. `at` is the start of the hour in epoch milliseconds.
     */
    hours: (UsageCounts & { at: number })[];
    /** The last 35 days with any usage, oldest first. `date` is a local date, such as `2026-04-15`. */
    days: (UsageCounts & { date: string })[];
  }

  /** The usage in a period of time. An answer counts in the hour and day in which it ended. */
  interface UsageCounts {
    /**
     * Successful answers to POST requests: chats (including streams and shorter requests) and embeddings. Refused
     * requests and answers of the qwen CLI with its own login don't count.
     */
    requests: number;
    /**
     * The number of these answers without usage: answers that were cut or cancelled, and streams that were not asked
     * for usage.
     */
    withoutUsage: number;
    /** Tokens of the prompts, including cached tokens. */
    inputTokens: number;
    /** The part of `inputTokens` that the server read from its cache, which costs less. */
    cachedTokens: number;
    /** Tokens of the answers. */
    outputTokens: number;
  }

  /** A token for requests without {@link QwenClient.fetch}. */
  interface AccessToken {
    /** A secret. */
    accessToken: string;
    /** The only base URL that the token may be sent to. */
    baseUrl: string;
    /** Id of its account. */
    accountId: string;
    /** Expiry in epoch milliseconds. 8640000000000000 for a key, which never expires. */
    expiresAt: number;
  }

  /** The result of a check of {@link QwenClient.doctor}. It never contains a secret. */
  interface Finding {
    /**
     * The check: `native-binary`, `version`, `settings`, `files`, `file-system`, `locks`, `store`, `credentials`,
     * `set-aside`, `account`, `certificates`, `proxy`, `oauth-server`, `api`, `clock`, `qwen-cli`, `opencode`.
     */
    id: string;
    /** `warning`: requests work, but the user should know something. `broken`: something doesn't work or isn't safe. */
    state: "ok" | "warning" | "broken";
    /** One line that describes the result. */
    message: string;
    /** The command or the step that fixes the problem. Missing without a problem. */
    fix?: string;
  }

  /** An open local server; see {@link QwenClient.serve}. */
  interface Gateway {
    /** Base URL for an OpenAI client, such as `http://127.0.0.1:4141/v1`. */
    readonly url: string;
    /** API key for an OpenAI client. */
    readonly key: string;
    /** Refuses new requests, waits 2 s for responses to end, then cuts them off. Resolves within 3 s. */
    close(): Promise<void>;
  }

  /** A client with one set of settings. */
  interface QwenClient {
    /**
     * Base of request URLs such as `${baseUrl}/chat/completions`, and the `baseURL` for an OpenAI SDK. It is known before any
     * login and never changes. A request to it goes to the account's own host.
     */
    readonly baseUrl: string;

    /**
     * Sends a request to the API like the global `fetch`, with an account's token, to that account's host. The function
     * is bound to the client, so it can be passed on without it.
     *
     * The request goes to the active account, or to the next one that is ready. An account without quota pauses, and
     * the same request goes to the next account. Each account gets the request once. If no account is left, these steps
     * follow in order:
     * - a login gets a shorter request, unless the request has tools and the answer could be cut. The answer has the
     *   headers `x-qwen-degraded: 1` and `x-qwen-degraded-left-out`
     * - the qwen CLI answers, if that is turned on (`x-qwen-cli-fallback: 1`)
     * - the response is a 429 with the time when the first account will be tried again, or a 402 for unpaid accounts
     *
     * Only accounts with the requested model are used. Accounts that cost more than the active one are only used if
     * `allowPaidFallback` is set; their answers have the header `x-qwen-paid-fallback: 1`. If an account turns out not
     * to have the model, the model is not requested from it for a day. A rate limit of up to 10 s is waited for once.
     * For a longer or second one the account pauses, and the next account is used. A key with too many tokens in a
     * minute pauses for a minute, and twice as long each time, up to `quotaCooldownMs`. An error inside a successful
     * answer counts as an error status if no content came before it. To detect it, the head of a streamed chat is held
     * back until the first content, for up to 10 s, and the head of a JSON answer until its end.
     *
     * An HTTP error of the API is a `Response` with the server's status, `Retry-After` and error `code`. If more is
     * known, `error.message` has the details, and the header `x-qwen-error` has one of the codes below. The header
     * `x-qwen-account` has the account's id. A rejected token is refreshed once, and the request is sent once more. One
     * call sends at most two requests for each account, and two more.
     *
     * @throws {@link QwenAuthError}
     * - `ERR_QWEN_INVALID_ARGUMENT`: a URL outside `baseUrl` and the accounts' base URLs, a model that no allowed account
     *   serves, or an invalid request
     * - `ERR_QWEN_NOT_LOGGED_IN`, `ERR_QWEN_CREDENTIALS_INVALID`, `ERR_QWEN_REFRESH_TOKEN_INVALID`: log in
     * - `ERR_QWEN_REFRESH_UNAVAILABLE`, `ERR_QWEN_LOCK_TIMEOUT`: no token is available now; `retryable`
     * - `ERR_QWEN_NETWORK`, `ERR_QWEN_TIMEOUT`: no response, or a response that broke off (then the body's stream fails with it)
     * - `ERR_QWEN_IO`, `ERR_QWEN_INVALID_CONFIG`, `ERR_QWEN_INVALID_RESPONSE`
     */
    fetch: typeof globalThis.fetch;

    /**
     * Logs in by the device flow. Resolves after the user's approval. The login becomes the active account and the qwen CLI's
     * login in `oauth_creds.json`. Other accounts stay. If the token shows that it is the same user, that user's account is
     * renewed.
     *
     * @param options.label - a name for the account, of 1 to 100 characters
     * @param options.replace - the id of an account that this login renews
     * @param options.openBrowser - true to open the user's browser. The default is true if there is a display
     * @param options.signal - cancels the login
     * @param options.onAuthorization - receives the address and the code to show
     * @throws {@link QwenAuthError} as {@link requestDeviceAuthorization} and {@link pollDeviceToken};
     * `ERR_QWEN_LOCK_TIMEOUT`, `ERR_QWEN_IO`, `ERR_QWEN_STORE_CORRUPT`, `ERR_QWEN_STORE_UNSUPPORTED`
     */
    login(options?: {
      label?: string;
      replace?: string;
      openBrowser?: boolean;
      signal?: AbortSignal;
      onAuthorization?: (authorization: DeviceAuthorization) => void;
    }): Promise<Account>;

    /**
     * Imports the accounts in a file of another tool, and the keys in OpenCode's `auth.json` or configuration, the qwen
     * CLI's `settings.json` or a `.env` file. Supported files of accounts are the qwen CLI's `oauth_creds.json`,
     * `oauth_accounts.json`, OpenCode's `auth.json`, and the files of the plugins opencode-qwen-auth,
     * opencode-qwencode-auth, opencode-qwen-oauth and of the first versions of this package. The file is not changed.
     * The active account and the qwen CLI's login stay the same.
     *
     * A refresh token can be redeemed once. If another tool continues to use the same login, one of them is logged out. So stop
     * using the login there.
     *
     * @param path - relative to the working directory; a leading `~` is the home directory
     * @returns the new accounts in the file's order. Accounts that were removed or can't be used are left out, which an event
     * of type `config` reports.
     * @throws {@link QwenAuthError} `ERR_QWEN_IO` for an unreadable file; `ERR_QWEN_CREDENTIALS_INVALID` for a file without
     * a usable account. Nothing is changed then. As {@link QwenClient.accounts}
     */
    importAccounts(path: string): Promise<Account[]>;

    /**
     * Imports every key that {@link QwenClient.findCredentials} finds and that no account has, each after a check as in
     * {@link QwenClient.addApiKey}. Keys of subscriptions go first. A key that a project's file sends to its own server is
     * left out, since the project may belong to someone else.
     *
     * @returns the new accounts. Rejected keys are left out, and an event of type `config` has the reason.
     * @throws {@link QwenAuthError} the error of the first key, if all keys were rejected; as
     * {@link QwenClient.accounts}
     */
    importAccounts(): Promise<Account[]>;

    /**
     * Finds keys that other tools on this machine have stored. Copies nothing and sends no request. An event of type
     * `config` reports unreadable files. It searches:
     *
     * - variables (`ALIBABA_TOKEN_PLAN_API_KEY`, `ALIBABA_CODING_PLAN_API_KEY`, `BAILIAN_TOKEN_PLAN_API_KEY`,
     *   `BAILIAN_CODING_PLAN_API_KEY`, `DASHSCOPE_API_KEY`, and `OPENAI_API_KEY` where `OPENAI_BASE_URL` is a plan's) of the
     *   client's environment, of the first `.qwen/.env` or `.env` from the working directory upward, of the same files in the
     *   home directory, and of `env` in the qwen CLI's `settings.json`
     * - `modelProviders` and `security.auth` in those settings
     * - entries of type `api` in OpenCode's `auth.json`
     * - `provider.*.options` in `opencode.json` and `opencode.jsonc`: the user's, and those from the working directory upward;
     *   and in the variable `OPENCODE_CONFIG_CONTENT`
     *
     * @returns each key once, with the plan and region of its entry. A key that entries send to several servers is
     * listed once for each server.
     * @throws {@link QwenAuthError} as {@link QwenClient.accounts}
     */
    findCredentials(): Promise<FoundCredential[]>;

    /**
     * Lists the models of the enabled accounts by id. A key has the models that its server lists, or those of its plan
     * in this package's catalog until the server has listed any. A login has `coder-model` and `vision-model`. If
     * several accounts have a model, the active one describes it, otherwise the cheapest.
     *
     * The servers' lists are stored in `opencode_qwen_models.json` in the Qwen directory and refreshed in the
     * background, at most once a day. A list that can't be fetched or read changes nothing, and an event of type
     * `config` reports it.
     *
     * @param options.refresh - fetches the lists first, all at the same time, for up to 5 s. Default: false
     * @throws {@link QwenAuthError} `ERR_QWEN_INVALID_ARGUMENT`; as {@link QwenClient.accounts} for files
     */
    models(options?: { refresh?: boolean }): Promise<Model[]>;

    /**
     * Opens a local HTTP server with the OpenAI API, for programs that can't load this package. Requests go through
     * {@link QwenClient.fetch}: `POST /v1/chat/completions`, `GET /v1/models` (the models of the accounts), and all
     * other paths below `/v1`. It listens on 127.0.0.1 and on ::1. It only answers requests with its key
     * (`Authorization: Bearer <key>`), with a loopback `Host` and without an `Origin`. Disconnecting cancels the
     * request.
     *
     * The process stays alive until the gateway or the client is closed.
     *
     * @param options.port - from 0 to 65535. With 0, the default, the system chooses a port
     * @param options.key - at least 32 visible ASCII characters. The default is a random key of 256 bits
     * @throws `ERR_QWEN_PORT_IN_USE` if another program listens on the port, on either address;
     * `ERR_QWEN_INVALID_ARGUMENT`
     */
    serve(options?: { port?: number; key?: string }): Promise<Gateway>;

    /**
     * Adds a key of a plan as an account, in `oauth_accounts.json` (mode 0600). Adding the same key again renews its
     * account. The account only becomes active if the active account and all cheaper accounts don't work; otherwise use
     * {@link QwenClient.setActiveAccount}. If a metered key becomes active, an event of type `switched` reports it.
     *
     * The endpoints that may have issued the key are checked one after another, most likely first, with a request of
     * one token each, until one accepts the key. Each check takes up to 5 s, and all together up to 20 s. Keys of
     * Alibaba Cloud start with `sk-`. Other texts, such as keys of other vendors, are refused before anything is sent.
     *
     * Spaces, quotes, `Bearer` and `NAME=` around a key are removed, and obvious mistakes in a base URL are corrected.
     * An event of type `config` reports each change.
     *
     * @param options.key - the key. No error, event or log contains it
     * @param options.plan - the plan of the key. By default it is detected, because the form of a key doesn't show it
     * @param options.region - `"cn"` or `"intl"`, for DashScope also `"us"` or `"hk"`. Alibaba Cloud's names such as
     * `"ap-southeast-1"` are accepted too. For a key of another region, the error names that region. By default the
     * region is detected, or the most likely one without a check
     * @param options.baseUrl - the base URL of a workspace (`https://{WorkspaceId}.{region}.maas.aliyuncs.com`,
     * metered) or of another server: https, or http on loopback, without user, query or fragment. Keys of other servers
     * may have any form. Without a plan they count as metered, and their requests get no cache markers
     * @param options.label - a name for the account
     * @param options.tier - the size of the subscription, for estimates of its use: `"lite"` or `"pro"` for a Coding
     * Plan, any tier for a Token Plan, none for DashScope. It is never sent
     * @param options.check - false to add the key without checking it. @defaultValue true
     * @throws {@link QwenAuthError}
     * - `ERR_QWEN_INVALID_ARGUMENT`: an invalid key, plan, region, tier or base URL; a tier that the plan doesn't have;
     *   or a key of another plan or region, which the message names
     * - `ERR_QWEN_TOKEN_REJECTED`: every checked endpoint refused the key; the message names them and their key pages
     * - `ERR_QWEN_NETWORK`, `ERR_QWEN_TIMEOUT`: no endpoint accepted the key, and one could not be reached; `retryable`
     * - as {@link QwenClient.accounts}. Nothing is stored then
     */
    addApiKey(options: {
      key: string;
      plan?: "coding-plan" | "token-plan" | "dashscope";
      region?: string;
      baseUrl?: string;
      label?: string;
      tier?: "lite" | "standard" | "pro";
      check?: boolean;
    }): Promise<Account>;

    /**
     * Returns all accounts: those of the store, and the one in `oauth_creds.json`.
     *
     * @throws {@link QwenAuthError} `ERR_QWEN_CREDENTIALS_INVALID`, `ERR_QWEN_IO`, `ERR_QWEN_LOCK_TIMEOUT`,
     * `ERR_QWEN_STORE_CORRUPT`, `ERR_QWEN_STORE_UNSUPPORTED`
     */
    accounts(): Promise<Account[]>;

    /**
     * Returns the account that requests go to first, or `null` without an account.
     *
     * @throws {@link QwenAuthError} as {@link QwenClient.accounts}
     */
    activeAccount(): Promise<Account | null>;

    /**
     * Returns the usage of all accounts by hour and day, counted from the `usage` of the responses. It is stored in
     * `opencode_qwen_usage.json` in the Qwen directory, by account id and without any text. Responses in progress are
     * not included. A killed process loses the usage of its last 5 s.
     *
     * @throws {@link QwenAuthError} as {@link QwenClient.accounts}
     */
    usage(): Promise<Usage[]>;

    /**
     * Makes an account the active one, which gets requests first. For a login, the token in `oauth_creds.json` is saved
     * in the store and then replaced, so the qwen CLI uses this login too. For a key that file stays unchanged.
     *
     * A login is refreshed first, so that a dead one never replaces a good one. If `oauth_creds.json` holds this login
     * already, it is refreshed only if its access token has expired or was refused. If the server gives no clear answer,
     * the account becomes active, and a `config` event reports that it was not verified.
     *
     * @throws {@link QwenAuthError} `ERR_QWEN_REFRESH_TOKEN_INVALID` for a login that was refused or has no refresh
     * token (nothing is changed); `ERR_QWEN_INVALID_ARGUMENT` for an unknown id and for a disabled account; as {@link
     * QwenClient.accounts}
     */
    setActiveAccount(id: string): Promise<Account>;

    /**
     * Renames, enables or disables an account. A disabled account keeps its tokens or key, and gets no requests. If the
     * active account is disabled, the cheapest enabled account becomes active, and an event of type `switched` reports
     * it with its price. A metered account only replaces another metered account this way; otherwise requests are
     * refused until the user chooses one. If all accounts are disabled, requests reject with `ERR_QWEN_NOT_LOGGED_IN`.
     * A new login, or adding its key again, enables an account. `oauth_creds.json` stays unchanged.
     *
     * @param id - the account's id
     * @param changes.label - a new name, of 1 to 100 characters, without control characters
     * @param changes.enabled - `false` to disable it, `true` to enable it
     * @throws {@link QwenAuthError} `ERR_QWEN_INVALID_ARGUMENT` for an unknown id, and for a label that is invalid or
     * in use (nothing is changed); as {@link QwenClient.accounts}
     */
    updateAccount(id: string, changes: { label?: string; enabled?: boolean }): Promise<Account>;

    /**
     * Removes an account permanently. Its tokens are not imported again from any file. If `oauth_creds.json` contains
     * it, that file is removed too, which logs the qwen CLI out. Its tokens are also removed from damaged stores
     * (`*.corrupt-*`) and from temporary files.
     *
     * @param options.revoke - asks the server that issued a login to revoke it (RFC 7009), if its metadata offers that.
     * Qwen's server is not known to. A `config` event reports the result. @defaultValue false
     * @returns `leftBehind`: paths of files in the Qwen directory that still contain a token of the account, because
     * other programs wrote them or they could not be changed, or that could not be searched; usually empty. A `config`
     * event reports that the directory has too many files to search all
     * @throws {@link QwenAuthError} `ERR_QWEN_INVALID_ARGUMENT` for an unknown id; as {@link QwenClient.accounts}
     */
    removeAccount(id: string, options?: { revoke?: boolean }): Promise<{ leftBehind: string[] }>;

    /**
     * Returns a token that is valid for at least 30 s, or was just obtained. Refreshes it if necessary, once for all callers
     * in all processes.
     *
     * @param options.accountId - @defaultValue the active account
     * @throws {@link QwenAuthError} `ERR_QWEN_INVALID_ARGUMENT` for an unknown id and for a disabled account;
     * `ERR_QWEN_NOT_LOGGED_IN`, also if every account is disabled; `ERR_QWEN_CREDENTIALS_INVALID`,
     * `ERR_QWEN_REFRESH_TOKEN_INVALID`, `ERR_QWEN_REFRESH_UNAVAILABLE`, `ERR_QWEN_INVALID_RESPONSE`,
     * `ERR_QWEN_LOCK_TIMEOUT`, `ERR_QWEN_IO`
     */
    getAccessToken(options?: { accountId?: string; signal?: AbortSignal }): Promise<AccessToken>;

    /**
     * Checks everything that requests depend on, and reports how to fix problems: settings, files and their modes, locks, the
     * stores, accounts, certificates, proxies, servers, the clock, the qwen CLI and OpenCode's configuration.
     *
     * It changes no file and refreshes no token. It fetches the list of models of a login's server, which is free. It
     * tests a ready key with a chat of one token, because a list of models may be public. It takes up to about 10 s.
     *
     * @returns one or more findings for each check, including those without a problem
     */
    doctor(): Promise<Finding[]>;

    /**
     * Aborts all calls and response bodies with an `AbortError`. A token that is being redeemed and the usage are still
     * written. Later calls reject with `ERR_QWEN_INVALID_ARGUMENT`.
     */
    close(): void;
  }

  /** Stable code of an error. */
  type ErrorCode =
    /** A value has the wrong type or is out of range. The message names the field. */
    | "ERR_QWEN_INVALID_ARGUMENT"
    /** An environment variable contains a URL, path or file that can't be used. */
    | "ERR_QWEN_INVALID_CONFIG"
    /** A path leads outside the Qwen directory, or to a file of the qwen CLI. */
    | "ERR_QWEN_PATH_NOT_ALLOWED"
    /** There is no account. */
    | "ERR_QWEN_NOT_LOGGED_IN"
    /** The credentials file has no usable tokens. It is not changed. */
    | "ERR_QWEN_CREDENTIALS_INVALID"
    /** The account store is damaged, and could not be moved aside. */
    | "ERR_QWEN_STORE_CORRUPT"
    /** The account store was written by another version, and could not be moved aside. */
    | "ERR_QWEN_STORE_UNSUPPORTED"
    /** A file could not be read or written. `path` names it. */
    | "ERR_QWEN_IO"
    /** Another process held the lock for 30 s. */
    | "ERR_QWEN_LOCK_TIMEOUT"
    /** The server refused to start a login. */
    | "ERR_QWEN_DEVICE_AUTHORIZATION_FAILED"
    /** The user denied the login. */
    | "ERR_QWEN_ACCESS_DENIED"
    /** The login was not approved in time. */
    | "ERR_QWEN_DEVICE_CODE_EXPIRED"
    /** The server refused the refresh token. A new login is needed. */
    | "ERR_QWEN_REFRESH_TOKEN_INVALID"
    /**
     * A refresh failed, but the server did not reject the token. The login is kept, and the refresh may succeed later.
     */
    | "ERR_QWEN_REFRESH_UNAVAILABLE"
    /** An OAuth error without its own code. `oauthError` contains it. */
    | "ERR_QWEN_OAUTH_ERROR"
    /** An answer lacks a required part of the protocol, or is too large. */
    | "ERR_QWEN_INVALID_RESPONSE"
    /** The connection failed or broke. */
    | "ERR_QWEN_NETWORK"
    /** No data arrived in time. */
    | "ERR_QWEN_TIMEOUT"
    /** The API refused the access token, even a fresh one. */
    | "ERR_QWEN_TOKEN_REJECTED"
    /** Qwen has ended the free tier. A login still succeeds, but its requests are refused. A key is needed. */
    | "ERR_QWEN_FREE_TIER_DISCONTINUED"
    /** The account's quota is used up. */
    | "ERR_QWEN_QUOTA_EXHAUSTED"
    /** The account has reached a rate limit. */
    | "ERR_QWEN_RATE_LIMITED"
    /**
     * Alibaba refuses the account's requests until its bill is paid. Or only a metered key has the model, and paid
     * fallback is not allowed: then the message names the key, and nothing was sent.
     */
    | "ERR_QWEN_PAYMENT_REQUIRED"
    /** No account can use the requested model. */
    | "ERR_QWEN_MODEL_UNAVAILABLE"
    /** A rule of the account (addresses, workspaces) forbids the request, or a proxy answered 401 or 402. */
    | "ERR_QWEN_PERMISSION_DENIED"
    /** Another program listens on the port. */
    | "ERR_QWEN_PORT_IN_USE"
    /** The qwen CLI was not found. Not thrown by `fetch`; the 429 response contains its message. */
    | "ERR_QWEN_CLI_NOT_FOUND"
    /** The qwen CLI did not answer. Not thrown by `fetch`; the 429 response contains its message. */
    | "ERR_QWEN_CLI_FAILED"
    /** The native addon could not be loaded. */
    | "ERR_QWEN_NATIVE_BINDING"
    /** A bug in this package. */
    | "ERR_QWEN_INTERNAL";

  /**
   * The error of every rejected call. Its message says what to do next, in one or two lines, and never contains a
   * secret.
   */
  class QwenAuthError extends Error {
    private constructor();
    name: "QwenAuthError";
    code: ErrorCode;
    /** The HTTP status of the response. */
    status?: number;
    /** The `error` of an OAuth error response (RFC 6749 section 5.2). */
    oauthError?: string;
    /** The account concerned. */
    accountId?: string;
    /** The file concerned. */
    path?: string;
    /** Wait time that the server asked for, in milliseconds. */
    retryAfterMs?: number;
    /** True if the same call may succeed later. */
    retryable: boolean;
    /** The underlying error. */
    cause?: unknown;
  }

  /**
   * Starts a login (RFC 8628 section 3.1) with a PKCE challenge (RFC 7636).
   *
   * @throws {@link QwenAuthError} `ERR_QWEN_DEVICE_AUTHORIZATION_FAILED`, `ERR_QWEN_INVALID_RESPONSE`, `ERR_QWEN_NETWORK`,
   * `ERR_QWEN_TIMEOUT`, `ERR_QWEN_INVALID_ARGUMENT`, `ERR_QWEN_INVALID_CONFIG`
   */
  function requestDeviceAuthorization(options?: OAuthOptions): Promise<DeviceAuthorization>;

  /**
   * Polls until the user has decided or the code has expired (RFC 8628 sections 3.4 and 3.5). Waits `interval` before
   * each poll, and 5 s longer after each `slow_down`. Continues after network errors and proxy error pages until
   * `expiresIn` has passed since the call.
   *
   * @param authorization - the result of {@link requestDeviceAuthorization}
   * @throws {@link QwenAuthError} `ERR_QWEN_ACCESS_DENIED`, `ERR_QWEN_DEVICE_CODE_EXPIRED`, `ERR_QWEN_OAUTH_ERROR`,
   * `ERR_QWEN_INVALID_RESPONSE`, `ERR_QWEN_INVALID_ARGUMENT`, `ERR_QWEN_INVALID_CONFIG`
   */
  function pollDeviceToken(authorization: DeviceAuthorization, options?: OAuthOptions): Promise<Token>;

  /**
   * Redeems a refresh token (RFC 6749 section 6), with up to two retries if the server gives no clear result. Uses no
   * file. Use {@link QwenClient.getAccessToken} for stored tokens.
   *
   * @throws {@link QwenAuthError} `ERR_QWEN_REFRESH_TOKEN_INVALID`; `ERR_QWEN_REFRESH_UNAVAILABLE` with the underlying
   * error as its `cause`; `ERR_QWEN_INVALID_RESPONSE`, `ERR_QWEN_INVALID_ARGUMENT`, `ERR_QWEN_INVALID_CONFIG`
   */
  function refreshAccessToken(refreshToken: string, options?: OAuthOptions): Promise<Token>;

  /**
   * Creates a client. Opens nothing.
   *
   * @throws {@link QwenAuthError} `ERR_QWEN_INVALID_ARGUMENT`, `ERR_QWEN_INVALID_CONFIG`, `ERR_QWEN_PATH_NOT_ALLOWED`,
   * `ERR_QWEN_NATIVE_BINDING`
   */
  function createClient(options?: ClientOptions): QwenClient;

  /** {@link QwenClient.fetch} of a client with default settings, created at the first call. */
  const fetch: typeof globalThis.fetch;

  /**
   * Options that OpenCode's configuration may set. All others are ignored, and the user is told once. An
   * `opencode.json` may belong to a project, so it can't choose a server, a file or a program, and can't allow costs:
   * `allowPaidFallback` may only be `false`.
   */
  type PluginOptions = Pick<
    ClientOptions,
    | "rotation"
    | "quotaCooldownMs"
    | "degrade"
    | "allowPaidFallback"
    | "qwenMode"
    | "connectTimeoutMs"
    | "idleTimeoutMs"
  >;

  /**
   * The OpenCode plugin, which OpenCode calls. Its second argument holds the options from OpenCode's configuration: see
   * {@link PluginOptions}.
   *
   * @see https://opencode.ai/docs/plugins
   */
  const QwenAuthPlugin: (input: unknown, options?: PluginOptions) => Promise<object>;
}

export = qwen;
