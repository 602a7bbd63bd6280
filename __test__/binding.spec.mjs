// Finding this platform's addon, and the error without one.
import assert from "node:assert/strict";
import fs, { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { CORE_SPECS, TARGETS, addonName, packageName } from "../scripts/targets.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const NAME = "opencode-qwen-cli-auth";
const { libc } = createRequire(import.meta.url)("../binding.js");
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

/** Gives this process a list of mapped files during the test; without one, it has no /proc. */
function map(t, files) {
  const { readFileSync } = fs;
  t.mock.method(fs, "readFileSync", (path, ...rest) => {
    if (path !== "/proc/self/maps") return readFileSync(path, ...rest);
    if (files === undefined) throw Object.assign(new Error("no /proc"), { code: "ENOENT" });
    return files.map((file) => `7f0000000000-7f0000001000 r--p 00000000 fe:00 1 ${file}\n`).join("");
  });
}

/** Makes this process look like one on another system during the test. */
function pretendSystem(t, { os, cpu, libc: library }) {
  pretend(t, { platform: os, arch: cpu });
  map(t, ["/usr/bin/node", library === "musl" ? "/lib/ld-musl-x86_64.so.1" : "/lib64/ld-linux-x86-64.so.2"]);
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
  ["/nix/store/abc-musl-1.2.5/lib/ld-musl-aarch64.so.1", "musl"],
  ["/nix/store/abc-glibc-2.40/lib/ld-linux-aarch64.so.1", "gnu"],
]) {
  test(`a process that ${loader} loaded runs on ${expected}`, (t) => {
    map(t, ["/usr/bin/node", loader, "[stack]"]);
    assert.equal(libc(), expected);
  });
}

test("without /proc the report of the runtime names the loader", (t) => {
  map(t, undefined);
  for (const [sharedObjects, expected] of [
    [["/usr/lib/libm.so.6", "/lib/ld-musl-x86_64.so.1"], "musl"],
    [["/lib64/ld-linux-x86-64.so.2"], "gnu"],
    [undefined, "gnu"],
  ]) {
    t.mock.method(process.report, "getReport", () => ({ sharedObjects }));
    assert.equal(libc(), expected);
  }
});

test("the tests of each target exist", () => {
  const missing = CORE_SPECS.filter((spec) => !fs.existsSync(join(ROOT, "__test__", `${spec}.spec.mjs`)));
  assert.deepEqual(missing, []);
});

for (const target of TARGETS) {
  test(`${target.name} takes the package of that name`, (t) => {
    const { load, install } = installed(t);
    pretendSystem(t, target);
    install(target, `exports.version = () => "${version}"; exports.name = "${target.name}";`);
    assert.equal(load().name, target.name);
  });

  test(`${target.name} without its package gets an error with the searched names and the fix`, (t) => {
    const { load } = installed(t);
    pretendSystem(t, target);
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
  pretendSystem(t, target);
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
