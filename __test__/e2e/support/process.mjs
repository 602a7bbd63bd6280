import { stripVTControlCharacters } from "node:util";

/** Ends a process that was started detached, and all that it has started. */
export function kill(child) {
  try {
    process.kill(process.platform === "win32" ? child.pid : -child.pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}

/** Text as a person reads it, without colours and cursor moves. */
export const plain = stripVTControlCharacters;
