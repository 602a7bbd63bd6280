import { testCases } from "./support/cases.mjs";

await testCases("response bodies", "stream-cases.mjs");
await testCases("odd answers", "answer-cases.mjs", 60_000);
