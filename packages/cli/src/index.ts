export { cliVersion } from './cli-version.ts';
export { helpText, parseLine, runCli } from './cli.ts';
export type { ArgumentSpec, Command, Example, OptionSpec } from './command.ts';
export { commands } from './commands/index.ts';
