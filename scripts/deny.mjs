// Checks the licenses, bans and sources of all crates (deny.toml): `npm run deny`. `-- --advisories` also checks for
// known vulnerabilities, which needs the advisory database.
import { cargoTool } from "./cargo-tool.mjs";
import { exitCode } from "./tasks.mjs";

const checks = ["licenses", "bans", "sources"];
if (process.argv.includes("--advisories")) checks.push("advisories");
const program = await cargoTool("cargo-deny");
process.exit(await exitCode(program, ["--locked", "check", "--hide-inclusion-graph", ...checks]));
