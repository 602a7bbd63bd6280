// A certificate authority, and its certificate for this machine.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const withoutOpenssl = hasOpenssl() ? false : "there is no openssl command";

function hasOpenssl() {
  try {
    execFileSync("openssl", ["version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/**
 * @param {string[]} [hosts] further host names of the certificate
 * @returns {{ caPath: string, tls: { key: string, cert: string } }} the files are removed when the test ends
 */
export function makeCertificates(t, hosts = []) {
  const directory = mkdtempSync(join(tmpdir(), "qwen-auth-ca-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const at = (name) => join(directory, name);
  const openssl = (...args) => execFileSync("openssl", args, { stdio: "pipe", cwd: directory });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  writeFileSync(
    at("ca.cnf"),
    "[req]\ndistinguished_name=dn\nx509_extensions=ca\nprompt=no\n[dn]\nCN=Spec CA\n" +
      "[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n",
  );
  openssl(
    "req",
    "-x509",
    ...newKey,
    "-keyout",
    "ca.key",
    "-out",
    "ca.pem",
    "-days",
    "2",
    "-config",
    "ca.cnf",
  );
  openssl("req", ...newKey, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost");
  const names = ["localhost", ...hosts].map((host) => `DNS:${host},`).join("");
  writeFileSync(at("server.ext"), `subjectAltName=${names}IP:127.0.0.1\nbasicConstraints=CA:FALSE\n`);
  const by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "server.ext"];
  openssl("x509", "-req", "-in", "server.csr", ...by, "-out", "server.pem");
  const tls = { key: readFileSync(at("server.key"), "utf8"), cert: readFileSync(at("server.pem"), "utf8") };
  return { caPath: at("ca.pem"), tls };
}
