import { testCases } from "./support/cases.mjs";

await testCases("response bodies", "stream-cases.mjs");
