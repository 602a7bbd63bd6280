import api from "./lib/api.js";

export const {
  QwenAuthError,
  QwenAuthPlugin,
  createClient,
  fetch,
  pollDeviceToken,
  refreshAccessToken,
  requestDeviceAuthorization,
} = api;
export default api.QwenAuthPlugin;
