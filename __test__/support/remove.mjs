import { rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const TRIES = 40;

/**
 * Removes a directory to which a background task, such as a log, may still write; repeats until that has
 * ended. (`maxRetries` of `rmSync` doesn't read the directory again, and keeps this process from finishing its own
 * writes.)
 */
export async function removeDirectory(path) {
  for (let tries = 1; ; tries += 1) {
    try {
      return rmSync(path, { recursive: true, force: true });
    } catch (error) {
      if (error.code !== "ENOTEMPTY" || tries === TRIES) throw error;
    }
    await sleep(50);
  }
}
