import { createHash } from "node:crypto";
import { json } from "./answer.mjs";

const DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code";
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i;
const CODE_VERIFIER = /^[A-Za-z0-9._~-]{43,128}$/;

/** @returns an OAuth error answer (RFC 6749 section 5.2) */
export function oauthError(status, error, error_description) {
  return json(status, { error, error_description });
}

export const invalidRefreshToken = () =>
  oauthError(400, "invalid_request", "Invalid refresh token or client_id");

const deviceCodeGone = () => oauthError(401, "invalid_request", "Device code is expired or invalid");

function formFaults({ entry, core }, required) {
  const type = entry.headers["content-type"] ?? "";
  if (!/^application\/x-www-form-urlencoded\b/i.test(type)) {
    return [`content-type must be application/x-www-form-urlencoded, got "${type}"`];
  }
  const faults = required
    .filter((field) => !entry.body[field])
    .map((field) => `the field ${field} is missing`);
  const { clientId } = core.options;
  if (clientId && entry.body.client_id && entry.body.client_id !== clientId) {
    faults.push("client_id is unknown");
  }
  return faults;
}

/** `POST /api/v1/oauth2/device/code` */
export const device = {
  check(ctx) {
    const faults = formFaults(ctx, ["client_id", "scope", "code_challenge", "code_challenge_method"]);
    const { body, headers } = ctx.entry;
    if (!UUID.test(headers["x-request-id"] ?? "")) faults.push("x-request-id must be a uuid");
    if (body?.code_challenge_method && body.code_challenge_method !== "S256") {
      faults.push("code_challenge_method must be S256");
    }
    return ctx.refusal(faults, () => oauthError(400, "invalid_request", faults.join("; ")));
  },

  answer({ core, entry }) {
    const { interval, deviceExpiresIn } = core.options;
    const made = core.devices.create(entry.body.code_challenge);
    const verification_uri = `${core.url}/authorize`;
    const query = new URLSearchParams({ user_code: made.userCode, client: "qwen-code" });
    return json(200, {
      device_code: made.deviceCode,
      user_code: made.userCode,
      verification_uri,
      verification_uri_complete: `${verification_uri}?${query}`,
      expires_in: deviceExpiresIn,
      interval,
    });
  },
};

/** `POST /api/v1/oauth2/token`: both grants */
export const token = {
  identify({ core, entry }) {
    const { grant_type, refresh_token, device_code } = entry.body ?? {};
    if (grant_type === DEVICE_GRANT) core.stats.polls += 1;
    if (grant_type === "refresh_token") core.stats.refreshes += 1;
    if (grant_type === "refresh_token") return core.accounts.refreshAccount(refresh_token)?.name;
    return core.devices.get(device_code)?.account;
  },

  check(ctx) {
    const grant = ctx.entry.body?.grant_type;
    const fields = grant === DEVICE_GRANT ? ["device_code", "code_verifier"] : ["refresh_token"];
    const faults = formFaults(ctx, ["grant_type", "client_id", ...fields]);
    if (grant && grant !== DEVICE_GRANT && grant !== "refresh_token") {
      return ctx.refusal([`grant_type ${grant} is unknown`], () => oauthError(400, "unsupported_grant_type"));
    }
    return ctx.refusal(faults, () => oauthError(400, "invalid_request", faults.join("; ")));
  },

  answer(ctx) {
    return ctx.entry.body.grant_type === DEVICE_GRANT ? poll(ctx) : refresh(ctx);
  },
};

function poll({ core, entry }) {
  const found = core.devices.get(entry.body.device_code);
  if (!found || found.state === "used") return deviceCodeGone();
  const { code_verifier } = entry.body;
  const challenge = createHash("sha256").update(code_verifier).digest("base64url");
  if (!CODE_VERIFIER.test(code_verifier) || challenge !== found.challenge) {
    return oauthError(400, "invalid_grant", "code_verifier does not match the code_challenge");
  }
  if (Date.now() >= found.expiresAt) return oauthError(400, "expired_token", "The device code has expired");
  if (found.state === "denied") return oauthError(400, "access_denied", "The user denied the request");
  if (found.state === "pending") {
    return oauthError(400, "authorization_pending", "The user has not approved the request yet");
  }
  found.state = "used";
  core.stats.logins += 1;
  return json(200, core.accounts.login(found.account));
}

function refresh(ctx) {
  const redeemed = ctx.core.accounts.redeem(ctx.entry.body.refresh_token);
  if (!redeemed) return invalidRefreshToken();
  ctx.redemption = redeemed.record;
  return json(200, redeemed.tokens);
}
