import type {
  BranchRequest,
  BranchResponse,
  CommandEvent,
  CommandInfo,
  ControllerEvent,
  CreatePortUrlRequest,
  CreateSandboxesRequest,
  CreateSnapshotRequest,
  CreateWorkspaceRequest,
  DirEntry,
  FileStat,
  FileQuery,
  FileWatchEvent,
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
  NetworkFlow,
  NetworkPolicy,
  NetworkPreset,
  PartialForkResponse,
  PingResponse,
  PortUrl,
  PruneSnapshotsRequest,
  PruneSnapshotsResponse,
  PtySize,
  PtyTicket,
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
import type { WebSocketLike } from './fetch-types.ts';
import { newIdempotencyKey } from './idempotency-key.ts';
import { Transport, type RequestBody } from './transport.ts';

/** Timeout for operations that may take minutes: hundreds of forks, a branch that waits for the disk. */
const SLOW_TIMEOUT_MS = 600_000;
/** Timeout for a build: an image is fetched, built, booted and warmed. */
const BUILD_TIMEOUT_MS = 3_600_000;
/** Time that a reply may take in addition to the command's own time limit. */
const GRACE_MS = 30_000;

const seg = encodeURIComponent;
const sandboxPath = (id: string) => `/v1/sandboxes/${seg(id)}`;
const commandPath = (id: string, commandId: string) => `${sandboxPath(id)}/commands/${seg(commandId)}`;
const ptyPath = (id: string, commandId: string) => `${commandPath(id, commandId)}/pty`;
const workspacePath = (name: string) => `/v1/workspaces/${seg(name)}`;
const snapshotPath = (tag: string) => `/v1/snapshots/${seg(tag)}`;
/** A POST with its own Idempotency-Key: the controller recognises a retry and executes the request once. */
const keyed = () =>
  ({ method: 'POST', repeatable: 'keyed', headers: { 'idempotency-key': newIdempotencyKey() } }) as const;

/** How a new file or directory is made. `mode` is octal. */
export type NewFileQuery = Omit<FileQuery, 'path'>;

/**
 * The raw API: one method per route, with the types of the API. `Sandbox`, `Snapshot`, `Workspace` and `Events` offer the
 * same in a friendlier form.
 *
 * Every method takes `{signal, timeoutMs}` last and rejects with a ForkdError, or with the signal's reason. A refused
 * connection is retried, except for raw bodies. A lost reply, or a 502, 503 or 504, is retried only where that is safe: for
 * GET, and for `createSnapshot`, `createSandboxes`, its partial form and `branch`, which carry an Idempotency-Key.
 */
export class ForkdClient {
  readonly #transport: Transport;

  constructor(options: ConnectionOptions = {}) {
    this.#transport = new Transport(openConnection(options));
  }

  /** The address of the controller, for messages. */
  get place(): string {
    return this.#transport.connection.place;
  }

  /** Closes idle connections. Not needed before the process exits. */
  close(): Promise<void> {
    return this.#transport.connection.close();
  }

  /** Asks if the controller answers now. The only GET that is not retried. */
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

  /** Replaces what a sandbox may reach. Open connections that are no longer allowed are reset. */
  setNetwork(id: string, policy: NetworkPolicy, options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#transport.json({ method: 'PUT', path: `${sandboxPath(id)}/network`, json: policy }, options);
  }

  listNetworkPresets(options: CallOptions = {}): Promise<NetworkPreset[]> {
    return this.#transport.json({ method: 'GET', path: '/v1/network/presets' }, options);
  }

  /** The latest connections of sandboxes. With `follow` it continues until the signal fires. */
  networkFlows(
    query: { sandbox?: string; follow?: boolean } = {},
    options: CallOptions = {},
  ): AsyncGenerator<NetworkFlow> {
    return this.#transport.events({ method: 'GET', path: '/v1/network/flows', query, repeatable: 'never' }, options);
  }

  /** The URL of a port, which is of use without a token until it expires. */
  createPortUrl(id: string, request: CreatePortUrlRequest, options: CallOptions = {}): Promise<PortUrl> {
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/urls`, json: request }, options);
  }

  /** Connects to a TCP port of a guest: sends `input` and yields what the guest sends. */
  connectPort(
    id: string,
    port: number,
    input: AsyncIterable<Uint8Array>,
    options: CallOptions = {},
  ): AsyncGenerator<Uint8Array> {
    const path = `${sandboxPath(id)}/ports/${port}`;
    return this.#transport.stream({ method: 'POST', path, raw: input }, options);
  }

  /** Stops the controller. Only over the unix socket. `kill` first ends the sandboxes and the pager. */
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

  /** Creates a snapshot and reports progress. The last event is a result or an error. */
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

  /** Writes a copy of the snapshot that has its memory in one layer and needs no ancestors. */
  compactSnapshot(tag: string, to: string, options: CallOptions = {}): Promise<SnapshotInfo> {
    const spec = { method: 'POST', path: `${snapshotPath(tag)}/compact`, json: { to } } as const;
    return this.#transport.json({ ...spec, timeoutMsDefault: SLOW_TIMEOUT_MS }, options);
  }

  /** Exports a snapshot as Firecracker files to a directory on the controller's host. Only over the unix socket. */
  exportSnapshot(
    tag: string,
    request: ExportSnapshotRequest,
    options: CallOptions = {},
  ): Promise<ExportSnapshotResponse> {
    const spec = { method: 'POST', path: `${snapshotPath(tag)}/export`, json: request } as const;
    return this.#transport.json({ ...spec, timeoutMsDefault: SLOW_TIMEOUT_MS }, options);
  }

  /** Imports a snapshot from Firecracker files. Only over the unix socket. */
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

  /** Creates sandboxes with `partial`: if some fail, the others are kept. Each sandbox has its own result. */
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

  /** Stops the sandbox; its memory is kept. No effect if the sandbox is already paused. */
  pauseSandbox(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/pause` }, options);
  }

  resumeSandbox(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/resume` }, options);
  }

  sandboxStats(id: string, options: CallOptions = {}): Promise<SandboxStats> {
    return this.#transport.json({ method: 'GET', path: `${sandboxPath(id)}/stats` }, options);
  }

  /** Streams the guest's console: the last `tail_bytes`, and with `follow` also new output. */
  sandboxLogs(
    id: string,
    query: { tail_bytes?: number; follow?: boolean } = {},
    options: CallOptions = {},
  ): AsyncGenerator<Uint8Array> {
    return this.#transport.stream({ method: 'GET', path: `${sandboxPath(id)}/logs`, query }, options);
  }

  /** Streams events from now on, or after the event `after`. The stream ends with the connection; `Events` reconnects. */
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

  /** Creates a workspace and starts its first sandbox. */
  createWorkspace(request: CreateWorkspaceRequest, options: CallOptions = {}): Promise<WorkspaceInfo> {
    const spec = { method: 'POST', path: '/v1/workspaces', json: request, timeoutMsDefault: SLOW_TIMEOUT_MS } as const;
    return this.#transport.json(spec, options);
  }

  /** Ends the sandbox and removes the saved state. The original snapshot stays. */
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

  /** Measures the lower bound of a branch's pause: pauses the sandbox as a branch does, and copies nothing. */
  floor(id: string, options: CallOptions = {}): Promise<FloorInfo> {
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/floor` }, options);
  }

  startCommand(id: string, request: StartCommandRequest, options: CallOptions = {}): Promise<CommandInfo> {
    const json = { ...request, follow: false };
    return this.#transport.json({ method: 'POST', path: `${sandboxPath(id)}/commands`, json }, options);
  }

  /** Starts a command and follows it. The stream has no time limit. `on_disconnect` decides what happens if the reader stops. */
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

  /** Streams output from `offset` (default 0), and with `follow` (default true) also new output until the command ends. */
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

  /** Sets the size of the terminal of a command. */
  resizePty(id: string, commandId: string, size: PtySize, options: CallOptions = {}): Promise<void> {
    return this.#transport.none({ method: 'PUT', path: ptyPath(id, commandId), json: size }, options);
  }

  /** Makes a ticket with which a web page can connect to the terminal of a command, once. */
  createPtyTicket(id: string, commandId: string, options: CallOptions = {}): Promise<PtyTicket> {
    return this.#transport.json({ method: 'POST', path: `${ptyPath(id, commandId)}/tickets` }, options);
  }

  /**
   * Connects a WebSocket to the terminal of a command. `Ptys` speaks its protocol. A page is let in by a ticket, which this
   * method gets.
   */
  async attachPty(
    id: string,
    commandId: string,
    query: { offset?: number | undefined; window_bytes?: number | undefined } = {},
    options: CallOptions = {},
  ): Promise<WebSocketLike> {
    const ticket = () => this.createPtyTicket(id, commandId, options).then((made) => made.ticket);
    return this.#transport.webSocket({ method: 'GET', path: ptyPath(id, commandId), query }, ticket, options);
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

  /** Writes a file. `mode` is octal, such as `0755`. `user` owns what is new. */
  writeFile(
    id: string,
    path: string,
    data: RequestBody,
    query: NewFileQuery = {},
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

  /** Describes what is at a path; with `follow` what is behind symbolic links. */
  statFile(id: string, path: string, query: { follow?: boolean } = {}, options: CallOptions = {}): Promise<FileStat> {
    const spec = { method: 'GET', path: `${sandboxPath(id)}/stat`, query: { path, ...query } } as const;
    return this.#transport.json(spec, options);
  }

  /** Makes a directory and those that lead to it, unless it exists. `mode` is octal; default `0755`. `user` owns what is new. */
  makeDir(id: string, path: string, query: NewFileQuery = {}, options: CallOptions = {}): Promise<void> {
    const spec = { method: 'PUT', path: `${sandboxPath(id)}/dir`, query: { path, ...query } } as const;
    return this.#transport.none(spec, options);
  }

  /** Streams what happens to a file, or to the files of a directory; with `recursive` to all below it. */
  watchFiles(
    id: string,
    path: string,
    query: { recursive?: boolean } = {},
    options: CallOptions = {},
  ): AsyncGenerator<FileWatchEvent> {
    const spec = { method: 'GET', path: `${sandboxPath(id)}/files/watch`, query: { path, ...query } } as const;
    return this.#transport.serverSentEvents(spec, options);
  }

  renameFile(id: string, from: string, to: string, options: CallOptions = {}): Promise<void> {
    const spec = { method: 'POST', path: `${sandboxPath(id)}/rename`, json: { from, to } } as const;
    return this.#transport.none(spec, options);
  }

  listDir(id: string, path: string, options: CallOptions = {}): Promise<DirEntry[]> {
    return this.#transport.json({ method: 'GET', path: `${sandboxPath(id)}/dir`, query: { path } }, options);
  }
}
