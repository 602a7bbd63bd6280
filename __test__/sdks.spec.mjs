import { testCases } from "./support/cases.mjs";

await testCases("the openai package", "openai-cases.mjs");
await testCases("the ai package", "ai-sdk-cases.mjs");
