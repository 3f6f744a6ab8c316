export { ForkdClient } from './client.ts';
export { CollectedOutput } from './collected.ts';
export {
  CommandHandle,
  Commands,
  type CommandLine,
  type CommandResult,
  type OutputChunk,
  type OutputHandlers,
  type StartOptions,
  type StdinOptions,
} from './commands.ts';
export type { ConnectionOptions } from './connection.ts';
export { sleep, type CallOptions } from './deadline.ts';
export { Controller, ControllerError, type ControllerOptions } from './compat/controller.ts';
export {
  AuthenticationError,
  ConflictError,
  errorFromEvent,
  ForkdError,
  isForkdError,
  NotFoundError,
  TimeoutError,
  type ClientErrorCode,
} from './errors.ts';
export { Events, type EventsOptions } from './events.ts';
export type { FetchInit, FetchLike, ReplyLike, WebSocketInit, WebSocketLike } from './fetch-types.ts';
export { Files } from './files.ts';
export { parseNdjson } from './ndjson.ts';
export type { ClientOptions, RequestOptions } from './options.ts';
export { Sandbox, type BranchOptions, type CreateOptions, type ListOptions, type LogsOptions } from './sandbox.ts';
export { Snapshot, type BuildOptions, type BuildTimes, type DeleteOptions, type PruneOptions } from './snapshot.ts';
export { PtyHandle, Ptys, type ConnectPtyOptions, type CreatePtyOptions, type PtyChunk } from './pty.ts';
export type { RequestBody } from './transport.ts';
export { Workspace, type CreateWorkspaceOptions } from './workspace.ts';
