// Installs cargo tools in `target/tools`, at the versions in `scripts/tools`.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { exitCode, root, run } from "./tasks.mjs";

function hasPip() {
  try {
    execFileSync("python3", ["-m", "pip", "--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/** Returns the program of a tool, installing it if it is missing. */
export async function cargoTool(name) {
  const requirements = join("scripts/tools", `${name}.txt`);
  const version = /==([\d.]+)/.exec(readFileSync(join(root, requirements), "utf8"))[1];
  const directory = join(root, `target/tools/${name}-${version}`);
  const program = join(directory, "bin", process.platform === "win32" ? `${name}.exe` : name);
  if (existsSync(program)) return program;
  console.log(`Installing ${name} ${version} ...`);
  // A prebuilt tool takes seconds to install, and building it takes minutes.
  if (hasPip()) {
    const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    const env = { PIP_ROOT_USER_ACTION: "ignore" };
    await exitCode("python3", [...pip, "--require-hashes", "--target", directory, "-r", requirements], {
      env,
    });
  }
  if (!existsSync(program)) {
    await run("cargo", ["install", "--locked", "--quiet", `${name}@${version}`, "--root", directory]);
  }
  return program;
}
