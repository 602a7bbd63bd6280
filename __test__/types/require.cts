// Type checks for users of `require`: the README's examples compile, and wrong calls do not.
import qwen = require("opencode-qwen-cli-auth");
import api = require("opencode-qwen-cli-auth/api");
import server = require("opencode-qwen-cli-auth/server");

const client: qwen.QwenClient = qwen.createClient({
  env: process.env,
  oauth: { baseUrl: "https://login.example", timeoutMs: 5_000 },
  idleTimeoutMs: 60_000,
  onEvent: (event) => console.log(event.type, event.message),
});

async function useClient(): Promise<void> {
  const account: qwen.Account = await client.login({
    openBrowser: false,
    onAuthorization: ({ verificationUriComplete, userCode }) =>
      console.log(verificationUriComplete, userCode),
  });
  const { accessToken, baseUrl } = await client.getAccessToken({ accountId: account.id });
  const response: Response = await client.fetch(`${client.baseUrl}/models`, {
    signal: AbortSignal.timeout(1_000),
  });
  console.log(accessToken.length, baseUrl, response.status);
  const [usage]: qwen.Usage[] = await client.usage();
  const today: qwen.UsageCounts | undefined = usage?.today;
  console.log(today?.requests, usage?.days.at(-1)?.date, usage?.hours[0]?.at);
  const models: qwen.Model[] = await client.models({ refresh: true });
  const seeing = models.filter(({ input, thinking }) => input.includes("image") && thinking?.toggle);
  console.log(seeing.map(({ id, output, accounts }) => `${id} ${output} ${accounts.length}`));
  client.close();
}

async function comeFromElsewhere(file: string): Promise<string[]> {
  const added: qwen.Account[] = await client.importAccounts(file);
  const found: qwen.FoundCredential[] = await client.findCredentials();
  if (found.some(({ known, lastFour }) => !known && lastFour !== "")) {
    added.push(...(await client.importAccounts()));
  }
  const findings: qwen.Finding[] = await client.doctor();
  const broken = findings.filter(({ state }) => state === "broken");
  return [
    ...added.map(({ label }) => label),
    ...broken.map(({ id, message, fix }) => fix ?? `${id}: ${message}`),
  ];
}

async function logIn(signal: AbortSignal): Promise<qwen.Token> {
  const authorization = await api.requestDeviceAuthorization({ signal });
  const token = await qwen.pollDeviceToken(authorization, { signal });
  try {
    return await qwen.refreshAccessToken(token.refreshToken ?? "");
  } catch (error) {
    const isTemporary = error instanceof qwen.QwenAuthError && error.retryable;
    if (isTemporary && error.code === "ERR_QWEN_REFRESH_UNAVAILABLE") return token;
    throw error;
  }
}

async function addKey(key: string): Promise<boolean> {
  const { kind, active } = await client.addApiKey({ key, plan: "coding-plan", region: "intl", check: false });
  // @ts-expect-error there is no such plan
  await client.addApiKey({ key, plan: "free" });
  return kind === "api-key" && active;
}

async function manage(id: string): Promise<string> {
  const { label, enabled, plan, region } = await client.updateAccount(id, { label: "Work", enabled: true });
  // @ts-expect-error only the label and the state are changed
  await client.updateAccount(id, { active: true });
  return enabled ? `${label} ${plan ?? ""} ${region ?? ""}` : "";
}

async function serve(): Promise<string> {
  const gateway: qwen.Gateway = await client.serve({ port: 4141 });
  await gateway.close();
  return gateway.url + gateway.key;
}

// @ts-expect-error a number of milliseconds, not a string
qwen.createClient({ idleTimeoutMs: "60s" });
// @ts-expect-error the base URL is fixed
client.baseUrl = "https://elsewhere.example";
// @ts-expect-error there is no such code
const code: qwen.ErrorCode = "ERR_QWEN_NONSENSE";

export = { useClient, comeFromElsewhere, logIn, addKey, serve, manage, code, plugin: server.server };
