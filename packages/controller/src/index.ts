export { parseCommand, UsageError } from './options.ts';
export type { Command, LogLevel, Options } from './options.ts';
