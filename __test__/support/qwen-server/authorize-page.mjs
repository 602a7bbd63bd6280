import { html } from "./answer.mjs";

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => String(text).replace(/[&<>"']/g, (char) => ESCAPES[char]);

const page = (title, content) => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 4rem auto; padding: 0 1rem; }
code { font-size: 1.4rem; letter-spacing: 0.1em; }
label, button { margin: 0.5rem 0.5rem 0.5rem 0; }
button { font: inherit; padding: 0.4rem 1.2rem; }
</style>
</head>
<body>
<h1>${escape(title)}</h1>
${content}
</body>
</html>
`;

/** `GET /authorize` asks the user, `POST /authorize` takes the decision. */
export function authorizePage({ core, entry }) {
  return entry.method === "GET" ? ask(core, entry.query) : decide(core, entry.body ?? {});
}

function ask(core, { user_code, client }) {
  if (!user_code) {
    return html(
      200,
      page(
        "Connect a device",
        `<form method="get"><input type="hidden" name="client" value="qwen-code">
<label>Code <input name="user_code" autofocus required></label><button>Next</button></form>`,
      ),
    );
  }
  if (client !== "qwen-code") {
    return html(400, page("Unknown client", "<p>The address must carry <b>client=qwen-code</b>.</p>"));
  }
  const device = core.devices.find(user_code);
  const gone = noLongerOpen(device);
  if (gone) return gone;
  const choices = core.accounts
    .names()
    .map(
      (name, index) =>
        `<label><input type="radio" name="account" value="${escape(name)}"${index ? "" : " checked"}> ${escape(name)}</label>`,
    )
    .join("\n");
  return html(
    200,
    page(
      "Let this device use your account?",
      `<p>It should show the code</p><p><code>${escape(device.userCode)}</code></p>
<form method="post" action="/authorize">
<input type="hidden" name="user_code" value="${escape(device.userCode)}">
<p>Log in as</p>
${choices}
<p><button name="decision" value="approve">Approve</button>
<button name="decision" value="deny">Deny</button></p>
</form>`,
    ),
  );
}

function noLongerOpen(device) {
  if (!device) return html(404, page("Unknown code", "<p>No device waits with this code.</p>"));
  if (device.state !== "pending")
    return html(410, page("Already answered", `<p>It was ${device.state}.</p>`));
  if (Date.now() >= device.expiresAt) return html(410, page("Too late", "<p>This code has expired.</p>"));
  return undefined;
}

function decide(core, { user_code, decision, account }) {
  const gone = noLongerOpen(user_code && core.devices.find(user_code));
  if (gone) return gone;
  if (decision === "deny") {
    core.devices.deny(user_code);
    return html(200, page("Denied", "<p>The device was not connected.</p>"));
  }
  if (decision !== "approve") return html(400, page("Nothing decided", "<p>Approve or deny.</p>"));
  core.devices.approve(user_code, { account: account || undefined });
  return html(200, page("Approved", "<p>You can go back to your terminal.</p>"));
}
