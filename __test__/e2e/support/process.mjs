import { stripVTControlCharacters } from "node:util";

/** Ends a detached process and all its children. */
export function kill(child) {
  try {
    process.kill(process.platform === "win32" ? child.pid : -child.pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}

/** Text without colours and cursor moves. */
export const plain = stripVTControlCharacters;
