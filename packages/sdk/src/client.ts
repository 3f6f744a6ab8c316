import type {
  BranchRequest,
  BranchResponse,
  CommandEvent,
  CommandInfo,
  ControllerEvent,
  CreateSandboxesRequest,
  CreateSnapshotRequest,
  CreateWorkspaceRequest,
  DirEntry,
  EvalRequest,
  EvalResponse,
  ExecRequest,
  ExecResponse,
  ExportSnapshotRequest,
  ExportSnapshotResponse,
  FloorInfo,
  Health,
  HostInfo,
  ImportSnapshotRequest,
  ListSandboxesQuery,
  MemoryInfo,
  PartialForkResponse,
  PingResponse,
  PruneSnapshotsRequest,
  PruneSnapshotsResponse,
  SandboxInfo,
  SandboxStats,
  ShutdownResponse,
  SnapshotEvent,
  SnapshotInfo,
  SnapshotInfoDetail,
  StartCommandRequest,
  SuspendWorkspaceRequest,
  UpdateSandboxRequest,
  VersionInfo,
  WorkspaceInfo,
} from '@forkd/api';
import { limits } from '@forkd/api/constants';
import { openConnection, type ConnectionOptions } from './connection.ts';
import type { CallOptions } from './deadline.ts';
import { newIdempotencyKey } from './idempotency-key.ts';
import { Transport, type RequestBody } from './transport.ts';

/** For what a host may need minutes for: forks by the hundred, a branch that waits for the disk. */
const SLOW_TIMEOUT_MS = 600_000;
/** An image is fetched, built, booted and warmed. */
const BUILD_TIMEOUT_MS = 3_600_000;
/** What a reply may take beyond the time that the caller gave the command itself. */
const GRACE_MS = 30_000;

const seg = encodeURIComponent;
const sandboxPath = (id: string) => `/v1/sandboxes/${seg(id)}`;
const commandPath = (id: string, commandId: string) => `${sandboxPath(id)}/commands/${seg(commandId)}`;
const workspacePath = (name: string) => `/v1/workspaces/${seg(name)}`;
const snapshotPath = (tag: string) => `/v1/snapshots/${seg(tag)}`;
/** A POST with a key of its own, by which the controller knows a repetition: asked twice, it is done once. */
const keyed = () =>
  ({ method: 'POST', repeatable: 'keyed', headers: { 'idempotency-key': newIdempotencyKey() } }) as const;

/**
 * The wire, one method a route, with its types and nothing else. `Sandbox`, `Snapshot`, `Workspace` and `Events` are the same
 * in friendlier words.
 *
 * Every method takes `{signal, timeoutMs}` last and rejects with a ForkdError, or with the signal's reason. A connection that
 * is refused is tried again whatever the request; an answer that was lost, or was a 502, 503 or 504, only where that is safe:
 * for GET, and for `createSnapshot`, `createSandboxes` and `branch`, which carry an Idempotency-Key.
 */
export class ForkdClient {
  readonly #transport: Transport;

  constructor(options: ConnectionOptions = {}) {
    this.#transport = new Transport(openConnection(options));
  }

  /** Where the controller is, for messages. */
  get place(): string {
    return this.#transport.connection.place;
  }

  /** Ends the idle connections. Needless before the process ends. */
  close(): Promise<void> {
    return this.#transport.connection.close();
  }

  /** Whether it answers now: the one read that is not tried again. */
  health(options: CallOptions = {}): Promise<Health> {
    const spec = { method: 'GET', path: '/healthz', repeatable: 'never', timeoutMsDefault: 5_000 } as const;
    return this.#transport.json(spec, options);
  }

  version(options: CallOptions = {}): Promise<VersionInfo> {
    return this.#transport.json({ method: 'GET', path: '/version' }, options);
  }

  host(options: CallOptions = {}): Promise<HostInfo> {
    return this.#transport.json({ method: 'GET', path: '/v1/host' }, options);
  }

  /** Over a unix socket only. `kill` ends the sandboxes, and the pager, first. */
  shutdown(query: { sandboxes?: 'kill' } = {}, options: CallOptions = {}): Promise<ShutdownResponse> {
    return this.#transport.json({ method: 'POST', path: '/v1/shutdown', query }, options);
  }

  listSnapshots(options: CallOptions = {}): Promise<SnapshotInfo[]> {
    return this.#transport.json({ method: 'GET', path: '/v1/snapshots' }, options);
  }

  getSnapshot(tag: string, options: CallOptions = {}): Promise<SnapshotInfo> {
    return this.#transport.json({ method: 'GET', path: snapshotPath(tag) }, options);
  }

  getSnapshotDetail(tag: string, options: CallOptions = {}): Promise<SnapshotInfoDetail> {
    return this.#transport.json({ method: 'GET', path: `${snapshotPath(tag)}/info` }, options);
  }

  createSnapshot(request: CreateSnapshotRequest, options: CallOptions = {}): Promise<SnapshotInfo> {
    const spec = { ...keyed(), path: '/v1/snapshots', json: request, timeoutMsDefault: BUILD_TIMEOUT_MS } as const;
    return this.#transport.json(spec, options);
  }

  /** The same with its progress; the last event is a result or an error. */
  createSnapshotEvents(request: CreateSnapshotRequest, options: CallOptions = {}): AsyncGenerator<SnapshotEvent> {
    const spec = { method: 'POST', path: '/v1/snapshots', json: request, timeoutMsDefault: BUILD_TIMEOUT_MS } as const;
    return this.#transport.events(spec, options);
  }

  deleteSnapshot(
    tag: string,
    query: { cascade?: boolean; force?: boolean } = {},
    options: CallOptions = {},
  ): Promise<void> {
    return this.#transport.none({ method: 'DELETE', path: snapshotPath(tag), query }, options);
  }

  /** Writes a snapshot anew that needs none of those above it: its memory in one layer. */
  compactSnapshot(tag: string, to: string, options: CallOptions = {}): Promise<SnapshotInfo> {
    const spec = { method: 'POST', path: `${snapshotPath(tag)}/compact`, json: { to } } as const;
    return this.#transport.json({ ...spec, timeoutMsDefault: SLOW_TIMEOUT_MS }, options);
  }

  /** Writes a snapshot as Firecracker's files, to a directory of the controller's host. On the unix socket only. */
  exportSnapshot(
    tag: string,
    request: ExportSnapshotRequest,
    options: CallOptions = {},
  ): Promise<ExportSnapshotResponse> {
    const spec = { method: 'POST', path: `${snapshotPath(tag)}/export`, json: request } as const;
    return this.#transport.json({ ...spec, timeoutMsDefault: SLOW_TIMEOUT_MS }, options);
  }

  /** Makes a snapshot of Firecracker's files. On the unix socket only. */
  importSnapshot(tag: string, request: ImportSnapshotRequest, options: CallOptions = {}): Promise<SnapshotInfo> {
    const spec = { method: 'POST', path: `${snapshotPath(tag)}/import`, json: request } as const;
    return this.#transport.json({ ...spec, timeoutMsDefault: SLOW_TIMEOUT_MS }, options);
  }

  pruneSnapshots(request: PruneSnapshotsRequest, options: CallOptions = {}): Promise<PruneSnapshotsResponse> {
    return this.#transport.json({ method: 'POST', path: '/v1/snapshots/prune', json: request }, options);
  }

  listSandboxes(options: CallOptions = {}, query: ListSandboxesQuery = {}): Promise<SandboxInfo[]> {
    return this.#transport.json({ method: 'GET', path: '/v1/sandboxes', query }, options);
  }

  getSandbox(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#transport.json({ method: 'GET', path: sandboxPath(id) }, options);
  }

  createSandboxes(request: CreateSandboxesRequest, options: CallOptions = {}): Promise<SandboxInfo[]> {
    const spec = { ...keyed(), path: '/v1/sandboxes', json: request, timeoutMsDefault: SLOW_TIMEOUT_MS } as const;
    return this.#transport.json(spec, options);
  }

  /** With `partial`: those that started are kept when others fail, and each has a result of its own. */
  async createSandboxesPartially(
    request: CreateSandboxesRequest,
    options: CallOptions = {},
  ): Promise<PartialForkResponse> {
    const json = { ...request, partial: true };
    const spec = { ...keyed(), path: '/v1/sandboxes', json, timeoutMsDefault: SLOW_TIMEOUT_MS } as const;
    const reply = await this.#transport.json<SandboxInfo[] | PartialForkResponse>(spec, options);
    if (!Array.isArray(reply)) return reply;
    return { results: reply.map((sandbox, index) => ({ index, sandbox })) };
  }

  updateSandbox(id: string, request: UpdateSandboxRequest, options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#transport.json({ method: 'PATCH', path: sandboxPath(id), json: request }, options);
  }

  /** It keeps its memory and loses its processor. One that is paused already stays so. */
  pauseSandbox(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/pause` }, options);
  }

  resumeSandbox(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/resume` }, options);
  }

  sandboxStats(id: string, options: CallOptions = {}): Promise<SandboxStats> {
    return this.#transport.json({ method: 'GET', path: `${sandboxPath(id)}/stats` }, options);
  }

  /** The guest's console: its last `tail_bytes`, and with `follow` what comes after. */
  sandboxLogs(
    id: string,
    query: { tail_bytes?: number; follow?: boolean } = {},
    options: CallOptions = {},
  ): AsyncGenerator<Uint8Array> {
    return this.#transport.stream({ method: 'GET', path: `${sandboxPath(id)}/logs`, query }, options);
  }

  /** What happens from now on, or after the event `after`. The stream ends with the connection; `Events` goes on. */
  events(query: { after?: string; sandbox?: string } = {}, options: CallOptions = {}): AsyncGenerator<ControllerEvent> {
    const { after, sandbox } = query;
    const headers: Record<string, string> = after === undefined ? {} : { 'last-event-id': after };
    return this.#transport.serverSentEvents(
      { method: 'GET', path: '/v1/events', query: { sandbox }, headers },
      options,
    );
  }

  listWorkspaces(options: CallOptions = {}): Promise<WorkspaceInfo[]> {
    return this.#transport.json({ method: 'GET', path: '/v1/workspaces' }, options);
  }

  getWorkspace(name: string, options: CallOptions = {}): Promise<WorkspaceInfo> {
    return this.#transport.json({ method: 'GET', path: workspacePath(name) }, options);
  }

  /** Starts its first sandbox too. */
  createWorkspace(request: CreateWorkspaceRequest, options: CallOptions = {}): Promise<WorkspaceInfo> {
    const spec = { method: 'POST', path: '/v1/workspaces', json: request, timeoutMsDefault: SLOW_TIMEOUT_MS } as const;
    return this.#transport.json(spec, options);
  }

  /** Ends its sandbox and removes its state. The snapshot that it came from stays. */
  deleteWorkspace(name: string, options: CallOptions = {}): Promise<void> {
    return this.#transport.none({ method: 'DELETE', path: workspacePath(name) }, options);
  }

  suspendWorkspace(
    name: string,
    request: SuspendWorkspaceRequest = {},
    options: CallOptions = {},
  ): Promise<WorkspaceInfo> {
    const spec = { method: 'POST', path: `${workspacePath(name)}/suspend`, json: request } as const;
    return this.#transport.json({ ...spec, timeoutMsDefault: SLOW_TIMEOUT_MS }, options);
  }

  resumeWorkspace(name: string, options: CallOptions = {}): Promise<WorkspaceInfo> {
    const spec = { method: 'POST', path: `${workspacePath(name)}/resume` } as const;
    return this.#transport.json({ ...spec, timeoutMsDefault: SLOW_TIMEOUT_MS }, options);
  }

  deleteSandbox(id: string, options: CallOptions = {}): Promise<void> {
    return this.#transport.none({ method: 'DELETE', path: sandboxPath(id) }, options);
  }

  ping(id: string, options: CallOptions = {}): Promise<PingResponse> {
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/ping` }, options);
  }

  exec(id: string, request: ExecRequest, options: CallOptions = {}): Promise<ExecResponse> {
    const timeoutMsDefault = (request.timeout_secs ?? limits.execTimeoutSecsDefault) * 1000 + GRACE_MS;
    return this.#transport.json(
      { method: 'POST', path: `${sandboxPath(id)}/exec`, json: request, timeoutMsDefault },
      options,
    );
  }

  eval(id: string, request: EvalRequest, options: CallOptions = {}): Promise<EvalResponse> {
    const timeoutMsDefault = (request.timeout_secs ?? limits.evalTimeoutSecsDefault) * 1000 + GRACE_MS;
    return this.#transport.json(
      { method: 'POST', path: `${sandboxPath(id)}/eval`, json: request, timeoutMsDefault },
      options,
    );
  }

  branch(id: string, request: BranchRequest = {}, options: CallOptions = {}): Promise<BranchResponse> {
    const spec = { ...keyed(), path: `${sandboxPath(id)}/branch`, json: request } as const;
    return this.#transport.json({ ...spec, timeoutMsDefault: SLOW_TIMEOUT_MS }, options);
  }

  memory(id: string, options: CallOptions = {}): Promise<MemoryInfo> {
    return this.#transport.json({ method: 'GET', path: `${sandboxPath(id)}/memory` }, options);
  }

  /** Pauses the sandbox as a branch does, and does nothing in the pause: the least that a branch could cost here. */
  floor(id: string, options: CallOptions = {}): Promise<FloorInfo> {
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/floor` }, options);
  }

  startCommand(id: string, request: StartCommandRequest, options: CallOptions = {}): Promise<CommandInfo> {
    const json = { ...request, follow: false };
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/commands`, json }, options);
  }

  /** Starts a command and follows it. The stream has no time limit of its own; to stop reading leaves the command running. */
  startCommandEvents(
    id: string,
    request: StartCommandRequest,
    options: CallOptions = {},
  ): AsyncGenerator<CommandEvent> {
    const json = { ...request, follow: true };
    return this.#transport.events({ method: 'POST', path: `${sandboxPath(id)}/commands`, json }, options);
  }

  listCommands(id: string, options: CallOptions = {}): Promise<CommandInfo[]> {
    return this.#transport.json({ method: 'GET', path: `${sandboxPath(id)}/commands` }, options);
  }

  getCommand(id: string, commandId: string, options: CallOptions = {}): Promise<CommandInfo> {
    return this.#transport.json({ method: 'GET', path: commandPath(id, commandId) }, options);
  }

  /** The output from `offset` (default 0), and with `follow` (default true) what comes after, to the command's end. */
  commandOutput(
    id: string,
    commandId: string,
    query: { offset?: number; follow?: boolean } = {},
    options: CallOptions = {},
  ): AsyncGenerator<CommandEvent> {
    const path = `${commandPath(id, commandId)}/output`;
    return this.#transport.events({ method: 'GET', path, query: { offset: 0, follow: true, ...query } }, options);
  }

  writeCommandStdin(
    id: string,
    commandId: string,
    data: RequestBody,
    query: { close?: boolean } = {},
    options: CallOptions = {},
  ): Promise<void> {
    return this.#transport.none(
      { method: 'POST', path: `${commandPath(id, commandId)}/stdin`, query, raw: data },
      options,
    );
  }

  signalCommand(id: string, commandId: string, signal: string | number, options: CallOptions = {}): Promise<void> {
    return this.#transport.none(
      { method: 'POST', path: `${commandPath(id, commandId)}/signal`, json: { signal } },
      options,
    );
  }

  /** Ends the command if it runs, and forgets its output. */
  deleteCommand(id: string, commandId: string, options: CallOptions = {}): Promise<void> {
    return this.#transport.none({ method: 'DELETE', path: commandPath(id, commandId) }, options);
  }

  readFile(id: string, path: string, options: CallOptions = {}): Promise<Uint8Array> {
    const spec = { method: 'GET', path: `${sandboxPath(id)}/files`, query: { path }, timeoutMsDefault: 0 } as const;
    return this.#transport.bytes(spec, options);
  }

  readFileStream(id: string, path: string, options: CallOptions = {}): AsyncGenerator<Uint8Array> {
    return this.#transport.stream({ method: 'GET', path: `${sandboxPath(id)}/files`, query: { path } }, options);
  }

  /** `mode` in octal, such as `0755`. */
  writeFile(
    id: string,
    path: string,
    data: RequestBody,
    query: { mode?: string } = {},
    options: CallOptions = {},
  ): Promise<void> {
    const spec = { method: 'PUT', path: `${sandboxPath(id)}/files`, query: { path, ...query }, raw: data } as const;
    return this.#transport.none({ ...spec, timeoutMsDefault: 0 }, options);
  }

  deleteFile(id: string, path: string, query: { recursive?: boolean } = {}, options: CallOptions = {}): Promise<void> {
    return this.#transport.none(
      { method: 'DELETE', path: `${sandboxPath(id)}/files`, query: { path, ...query } },
      options,
    );
  }

  listDir(id: string, path: string, options: CallOptions = {}): Promise<DirEntry[]> {
    return this.#transport.json({ method: 'GET', path: `${sandboxPath(id)}/dir`, query: { path } }, options);
  }
}
