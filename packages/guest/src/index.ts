export { GuestAgent } from './agent.ts';
export { agentErrorCodes, GuestError, type GuestErrorCode } from './errors.ts';
export type { Bytes } from './http.ts';
export { CommandOutput, type CommandExit, type OutputChunk, type OutputEvent, type OutputGap } from './output.ts';
export { PtyView, type PtyEvent } from './pty-view.ts';
export type { Refresh } from './refresh.ts';
export type {
  Budget,
  CommandInfo,
  CommandOptions,
  CurrentIdentity,
  DirectoryEntry,
  EvalOptions,
  EvalResult,
  FileChange,
  FileContents,
  FileFacts,
  FileStat,
  GuestConfig,
  Identified,
  Identity,
  NewFileOptions,
  Ping,
  PtySize,
  RunOptions,
  RunResult,
  StartOptions,
  Started,
} from './types.ts';
export { turns } from './turns.ts';
export type { WaitOptions } from './wait.ts';
