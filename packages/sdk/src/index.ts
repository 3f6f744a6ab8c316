export { ForkdClient } from './client.ts';
export {
  CommandHandle,
  Commands,
  type CommandLine,
  type CommandResult,
  type OutputChunk,
  type OutputHandlers,
  type StartOptions,
} from './commands.ts';
export type { ConnectionOptions, FetchInit, FetchLike, ReplyLike } from './connection.ts';
export { sleep, type CallOptions } from './deadline.ts';
export { errorFromEvent, ForkdError, isForkdError, type ClientErrorCode } from './errors.ts';
export { Files } from './files.ts';
export { parseNdjson } from './ndjson.ts';
export type { ClientOptions } from './options.ts';
export { Sandbox, type BranchOptions, type CreateOptions } from './sandbox.ts';
export { Snapshot, type BuildOptions, type BuildTimes } from './snapshot.ts';
export type { RequestBody } from './transport.ts';
