// Checks a built addon: right system, small, free of this machine's paths, and on Linux no newer glibc than promised.
// `node scripts/check-addon.mjs <target> <file>` checks one.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { pathToFileURL } from "node:url";
import { targetNamed } from "./targets.mjs";
import { root } from "./tasks.mjs";

const MAX_BYTES = 6_000_000;
const OLDEST_GLIBC = [2, 17];
/** Libraries that every system of a kind has. */
const LIBRARIES = {
  glibc: /^(?:lib(?:c|m|dl|pthread|rt|util)\.so\.\d+|ld-linux-\S+\.so\.\d+|libgcc_s\.so\.1)$/,
  musl: /^libc(?:\.musl-\w+)?\.so(?:\.1)?$/,
};
const MACHINES = {
  linux: { x64: "Advanced Micro Devices X86-64", arm64: "AArch64" },
  // The CPU type of a Mach-O file, and the machine of a PE file.
  darwin: { x64: 0x01000007, arm64: 0x0100000c },
  win32: { x64: 0x8664, arm64: 0xaa64 },
};
const MACH_O_64 = 0xfeedfacf;
const ENTRY_POINT = "napi_register_module_v1";

/** Throws an error with all problems. Prints the size and the oldest supported glibc. */
export async function checkAddon(target, path) {
  const bytes = readFileSync(path);
  const problems = [];
  const expect = (condition, problem) => condition || problems.push(problem);
  expect(bytes.length <= MAX_BYTES, `it has ${bytes.length} bytes, more than ${MAX_BYTES}`);
  expect(bytes.includes(ENTRY_POINT), `it has no ${ENTRY_POINT}`);
  for (const place of [root, homedir()]) expect(!bytes.includes(`${place}/`), `it holds the path ${place}`);
  let note = "";
  if (target.os === "linux") {
    const { machine, libraries, glibc } = readElf(path);
    expect(machine === MACHINES.linux[target.cpu], `it is for ${machine}`);
    const foreign = libraries.filter((name) => !LIBRARIES[target.libc].test(name));
    expect(foreign.length === 0, `it wants ${foreign.join(", ")}`);
    if (target.libc === "glibc") {
      note = `, GLIBC ${glibc.join(".")}`;
      expect(compare(glibc, OLDEST_GLIBC) <= 0, `it wants GLIBC ${glibc.join(".")}`);
    } else {
      expect(glibc.length === 0, "it wants glibc");
    }
  } else {
    expect(machineOf(target.os, bytes) === MACHINES[target.os][target.cpu], "it is for another system");
  }
  if (problems.length > 0) throw new Error(`${path} is not as it has to be: ${problems.join("; ")}.`);
  console.log(`${target.name}: ${(bytes.length / 1e6).toFixed(2)} MB${note}`);
}

/** Uses binutils, which come with every C compiler on Linux. */
function readElf(path) {
  const options = ["--wide", "--file-header", "--dynamic", "--version-info", path];
  const text = execFileSync("readelf", options, { encoding: "utf8", env: { ...process.env, LC_ALL: "C" } });
  const versions = [...text.matchAll(/Name: GLIBC_([\d.]+)/g)].map(([, version]) =>
    version.split(".").map(Number),
  );
  return {
    machine: /Machine:\s*(.*)/.exec(text)?.[1],
    libraries: [...text.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name),
    glibc: versions.sort(compare).at(-1) ?? [],
  };
}

function compare(one, other) {
  for (let index = 0; index < Math.max(one.length, other.length); index += 1) {
    const difference = (one[index] ?? 0) - (other[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function machineOf(os, bytes) {
  if (os === "darwin") return bytes.readUInt32LE(0) === MACH_O_64 ? bytes.readUInt32LE(4) : undefined;
  // A DOS header contains the offset of the PE header.
  const start = bytes.readUInt32LE(0x3c);
  return bytes.toString("latin1", start, start + 4) === "PE\0\0" ? bytes.readUInt16LE(start + 4) : undefined;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await checkAddon(targetNamed(process.argv[2]), process.argv[3]);
}
