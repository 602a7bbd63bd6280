import qwen = require("./index.js");

export import createClient = qwen.createClient;
export import fetch = qwen.fetch;
export import pollDeviceToken = qwen.pollDeviceToken;
export import QwenAuthPlugin = qwen.QwenAuthPlugin;
export import refreshAccessToken = qwen.refreshAccessToken;
export import requestDeviceAuthorization = qwen.requestDeviceAuthorization;
export type AccessToken = qwen.AccessToken;
export type Account = qwen.Account;
export type ClientOptions = qwen.ClientOptions;
export type DeviceAuthorization = qwen.DeviceAuthorization;
export type ErrorCode = qwen.ErrorCode;
export type OAuthOptions = qwen.OAuthOptions;
export type QwenAuthError = qwen.QwenAuthError;
export type QwenClient = qwen.QwenClient;
export type QwenEvent = qwen.QwenEvent;
export type Token = qwen.Token;
export default qwen.QwenAuthPlugin;
