export { GuestAgent } from './agent.ts';
export { GuestError, type GuestErrorCode } from './errors.ts';
export type { Bytes } from './http.ts';
export { CommandOutput, type CommandExit, type OutputChunk, type OutputEvent, type OutputGap } from './output.ts';
export type {
  CommandInfo,
  CommandOptions,
  CurrentIdentity,
  DirectoryEntry,
  EvalOptions,
  EvalResult,
  FileContents,
  GuestConfig,
  Identified,
  Identity,
  Ping,
  RunOptions,
  RunResult,
  StartOptions,
  Started,
} from './types.ts';
export type { WaitOptions } from './wait.ts';
