export { cliVersion } from './cli-version.ts';
export { helpText, parseLine, runCli } from './cli.ts';
export type { ArgumentSpec, Command, CommandGroup, Example, OptionSpec } from './command.ts';
export { loadCommandGroups } from './commands/index.ts';
export { completionScript, shells } from './completion/index.ts';
export { manPage } from './reference/man.ts';
export { markdownReference } from './reference/markdown.ts';
