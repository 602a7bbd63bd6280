import { createHash } from "node:crypto";
import { apiError, json } from "./answer.mjs";
import { think } from "./brain.mjs";
import { completion } from "./completion.mjs";
import { listedFor, modelsOf } from "./models.mjs";
import { refusesProgram } from "./places.mjs";
import { chatFaults, headerFaults } from "./portal-rules.mjs";
import { keyRejected, refusedForQuota, tokenRejected } from "./steps.mjs";

/** The common checks of all API endpoints: authentication and the portal's rules. */
const base = {
  identify(ctx) {
    const bearer = /^Bearer (.+)$/i.exec(ctx.entry.headers.authorization ?? "")?.[1];
    ctx.caller = ctx.core.accounts.authenticate(bearer, ctx.entry.place);
    ctx.entry.kind = ctx.caller.kind;
    return ctx.caller.account?.name;
  },

  check(ctx) {
    if (ctx.caller.ok) return undefined;
    return () => {
      ctx.core.stats.unauthorized += 1;
      return ctx.entry.place === undefined ? tokenRejected() : keyRejected(ctx.entry.place);
    };
  },

  inspect(ctx) {
    return headerFaults(ctx.entry, ctx.caller.kind);
  },
};

const badRequest = (message) => apiError(400, "invalid_parameter_error", message);

/** Takes one request from the account's quota. @returns an answer if none is left */
function spend({ core, caller }) {
  const { account } = caller;
  if (account.left <= 0) {
    core.stats.quotaRefusals += 1;
    return refusedForQuota(account.refusal);
  }
  account.left -= 1;
  return undefined;
}

/** `GET /v1/models` */
export const models = {
  ...base,
  answer(ctx) {
    if (ctx.faults.length > 0) return badRequest(ctx.faults.join("; "));
    const data = listedFor(ctx.caller).map((id) => ({ id, object: "model", created: 0, owned_by: "qwen" }));
    return json(200, { object: "list", data });
  },
};

/** `POST /v1/chat/completions` */
export const chat = {
  ...base,

  inspect(ctx) {
    return [...base.inspect(ctx), ...chatFaults(ctx.entry.body, ctx.caller.kind)];
  },

  answer(ctx) {
    const { body } = ctx.entry;
    if (ctx.strict && refusesProgram(ctx.entry.place, ctx.entry.headers["user-agent"]))
      return unknownProgram();
    if (ctx.faults.length > 0) return badRequest(ctx.faults.join("; "));
    if (!body || typeof body !== "object") return badRequest("the body must be a JSON object");
    if (ctx.strict && !modelsOf(ctx.caller).includes(body.model)) return unknownModel(body.model);
    return spend(ctx) ?? completion(think(body), body, ctx.caller.account, ctx.pace);
  },
};

function unknownModel(model) {
  const message = `The model \`${model}\` does not exist or you do not have access to it.`;
  return apiError(404, "model_not_found", message);
}

function unknownProgram() {
  const message = "Coding Plan is currently only available for Coding Agents";
  return apiError(405, "method_not_allowed", message);
}

/** `POST /v1/embeddings` */
export const embeddings = {
  ...base,
  answer(ctx) {
    if (ctx.faults.length > 0) return badRequest(ctx.faults.join("; "));
    const { model, input, dimensions = 8, encoding_format } = ctx.entry.body ?? {};
    const inputs = [input ?? []].flat();
    if (inputs.length === 0) return badRequest("input must be a string or an array of strings");
    const refused = spend(ctx);
    if (refused) return refused;
    const tokens = inputs.reduce((sum, text) => sum + Math.ceil(String(text).length / 4), 0);
    const data = inputs.map((text, index) => {
      const vector = embed(String(text), dimensions);
      const embedding =
        encoding_format === "base64"
          ? Buffer.from(new Float32Array(vector).buffer).toString("base64")
          : vector;
      return { object: "embedding", index, embedding };
    });
    return json(200, { object: "list", model, data, usage: { prompt_tokens: tokens, total_tokens: tokens } });
  },
};

function embed(text, dimensions) {
  const bytes = createHash("sha256").update(text).digest();
  return Array.from({ length: dimensions }, (_, index) => bytes[index % bytes.length] / 255 - 0.5);
}
