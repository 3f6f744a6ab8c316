export { GuestAgent } from './agent.js';
export { GuestError, type GuestErrorCode } from './errors.js';
export type { Bytes } from './http.js';
export { CommandOutput, type CommandExit, type OutputChunk, type OutputEvent, type OutputGap } from './output.js';
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
} from './types.js';
export type { WaitOptions } from './wait.js';
