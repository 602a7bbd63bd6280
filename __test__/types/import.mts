// The same checks for users of `import`.
import QwenAuthPlugin, {
  QwenAuthError,
  createClient,
  fetch,
  type Account,
  type QwenClient,
} from "opencode-qwen-cli-auth";
import api from "opencode-qwen-cli-auth/api";

const client: QwenClient = createClient();
export const accounts: Promise<Account[]> = client.accounts();
export const models: Promise<Response> = fetch(`${client.baseUrl}/models`);
export const sameFunction: typeof createClient = api.createClient;
export const hooks: Promise<object> = QwenAuthPlugin({}, { idleTimeoutMs: 1_000 });
export const isMissing = (error: unknown): boolean =>
  error instanceof QwenAuthError && error.code === "ERR_QWEN_NOT_LOGGED_IN";
