import { testCases } from "./support/cases.mjs";

await testCases("OpenCode 2's stand-in", "opencode2-cases.mjs");
