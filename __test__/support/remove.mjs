import { rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const TRIES = 40;

/**
 * Removes a directory that something may still be written into in the background, such as a log, until that has come to
 * its end. (`maxRetries` of `rmSync` doesn't read the directory again, and keeps this process from finishing its own
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
