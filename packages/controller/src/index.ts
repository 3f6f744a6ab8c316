export type { LogLevel } from './option-table.ts';
export { parseCommand } from './options.ts';
export type { Command, Options } from './options.ts';
export { UsageError } from './usage-error.ts';
