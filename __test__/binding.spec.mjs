// Finding this platform's addon, and the error without one.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { TARGETS, addonName, packageName } from "../scripts/targets.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const NAME = "opencode-qwen-cli-auth";
const { libc } = createRequire(import.meta.url)("../lib/libc.js");
const { version } = createRequire(import.meta.url)("../package.json");

function folder(t) {
  const path = mkdtempSync(join(tmpdir(), "qwen-binding-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Makes this process look like another one during the test. */
function pretend(t, values) {
  for (const [name, value] of Object.entries(values)) {
    const own = Object.getOwnPropertyDescriptor(process, name);
    Object.defineProperty(process, name, { ...own, value });
    t.after(() => Object.defineProperty(process, name, own));
  }
}

/** An executable whose second program header names a loader. */
function executable(t, loader) {
  const [headerBytes, entryBytes] = [64, 56];
  const bytes = Buffer.alloc(8192);
  bytes.write("\u007fELF", "latin1");
  bytes.writeBigUInt64LE(BigInt(headerBytes), 32);
  bytes.writeUInt16LE(entryBytes, 54);
  bytes.writeUInt16LE(loader === undefined ? 1 : 2, 56);
  bytes.writeUInt32LE(6, headerBytes);
  if (loader !== undefined) {
    // At the end of the file, where tools that change executables put it.
    const at = 6000;
    bytes.writeUInt32LE(3, headerBytes + entryBytes);
    bytes.writeBigUInt64LE(BigInt(at), headerBytes + entryBytes + 8);
    bytes.writeBigUInt64LE(BigInt(loader.length + 1), headerBytes + entryBytes + 32);
    bytes.write(loader, at);
  }
  const path = join(folder(t), "program");
  writeFileSync(path, bytes);
  return path;
}

function systemOf(t, { os, cpu, libc: library }) {
  const loader = library === "musl" ? "/lib/ld-musl-x86_64.so.1" : "/lib64/ld-linux-x86-64.so.2";
  return { platform: os, arch: cpu, execPath: executable(t, loader) };
}

/** The installed package, with only the addon that `install` adds. */
function installed(t) {
  const base = folder(t);
  const copy = join(base, "node_modules", NAME);
  mkdirSync(copy, { recursive: true });
  for (const name of ["package.json", "binding.js", "lib"]) {
    cpSync(join(ROOT, name), join(copy, name), { recursive: true });
  }
  return {
    copy,
    load: () => createRequire(join(base, "user.js"))(`${copy}/binding.js`).load(),
    install(target, source) {
      const beside = join(base, "node_modules", packageName(target));
      mkdirSync(beside);
      writeFileSync(join(beside, "package.json"), JSON.stringify({ main: "addon.js" }));
      writeFileSync(join(beside, "addon.js"), source);
    },
  };
}

for (const [loader, expected] of [
  ["/lib64/ld-linux-x86-64.so.2", "gnu"],
  ["/lib/ld-musl-x86_64.so.1", "musl"],
  ["/lib/ld-musl-aarch64.so.1", "musl"],
  ["/nix/store/abc-glibc-2.40/lib/ld-linux-aarch64.so.1", "gnu"],
]) {
  test(`a program that ${loader} starts runs on ${expected}`, (t) => {
    pretend(t, { execPath: executable(t, loader) });
    assert.equal(libc(), expected);
  });
}

test("a program without a loader, and a loader that was given the program", (t) => {
  const program = executable(t);
  pretend(t, { execPath: program });
  assert.equal(libc(), "gnu");
  const loader = join(dirname(program), "ld-musl-x86_64.so.1");
  renameSync(program, loader);
  pretend(t, { execPath: loader });
  assert.equal(libc(), "musl");
});

test("with a script, or without a program, the kernel is asked", (t) => {
  const own = libc();
  const script = join(folder(t), "run-on-ld-musl-x86_64");
  writeFileSync(script, "#!/bin/sh\nexec node\n".padEnd(100, " "));
  pretend(t, { execPath: script });
  assert.equal(libc(), own);
  pretend(t, { execPath: `${script}-none` });
  assert.equal(libc(), own);
});

for (const target of TARGETS) {
  test(`${target.name} takes the package of that name`, (t) => {
    const { load, install } = installed(t);
    pretend(t, systemOf(t, target));
    install(target, `exports.version = () => "${version}"; exports.name = "${target.name}";`);
    assert.equal(load().name, target.name);
  });

  test(`${target.name} without its package gets an error with the searched names and the fix`, (t) => {
    const { load } = installed(t);
    pretend(t, systemOf(t, target));
    assert.throws(load, (error) => {
      assert.deepEqual([error.code, error.target], ["ERR_QWEN_NATIVE_BINDING", target.name]);
      const [what, advice, ...rest] = error.message.split("\n");
      assert.match(
        what,
        new RegExp(`for ${target.name} could not be loaded: looked for ${packageName(target)}: `),
      );
      assert.match(advice, /^Install .* without --omit=optional/);
      assert.deepEqual(rest, []);
      return true;
    });
  });
}

test("a system without a build is named", (t) => {
  const { load } = installed(t);
  pretend(t, { platform: "freebsd", arch: "riscv64" });
  assert.throws(load, {
    code: "ERR_QWEN_NATIVE_BINDING",
    message: /for freebsd-riscv64 .* none for this system/,
  });
});

test("a package of another version is not used", (t) => {
  const { load, install } = installed(t);
  const [target] = TARGETS;
  pretend(t, systemOf(t, target));
  install(target, `exports.version = () => "0.0.1";`);
  assert.throws(load, { code: "ERR_QWEN_NATIVE_BINDING", message: /of version 0\.0\.1, but this is/ });
});

test("an addon of this checkout comes before a package", (t) => {
  const { copy, load, install } = installed(t);
  const target = TARGETS.find(({ os }) => os === "win32");
  pretend(t, { platform: target.os, arch: target.cpu });
  install(target, `exports.version = () => "${version}";`);
  writeFileSync(join(copy, addonName(target)), "no addon");
  assert.throws(load, {
    code: "ERR_QWEN_NATIVE_BINDING",
    message: new RegExp(`looked for .*${addonName(target)}`),
  });
});
