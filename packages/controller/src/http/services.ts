import type {
  BranchRequest,
  CommandEvent,
  CommandInfo,
  CommandOutputQuery,
  ControllerEvent,
  CreateSandboxesRequest,
  CreateSnapshotRequest,
  CreateWorkspaceRequest,
  DeleteSnapshotQuery,
  DirEntry,
  EvalRequest,
  EvalResponse,
  EventsQuery,
  ExecRequest,
  ExecResponse,
  ExportSnapshotRequest,
  ExportSnapshotResponse,
  FileQuery,
  FloorInfo,
  HostInfo,
  ImportSnapshotRequest,
  ListSandboxesQuery,
  LogsQuery,
  MemoryInfo,
  PartialForkResponse,
  PingResponse,
  PruneSnapshotsRequest,
  PruneSnapshotsResponse,
  SandboxInfo,
  SandboxStats,
  ShutdownResponse,
  SnapshotInfo,
  SnapshotInfoDetail,
  StartCommandRequest,
  UpdateSandboxRequest,
  WorkspaceInfo,
} from '@forkd/api';
import type { Bytes, FileContents } from '@forkd/guest';

import type { Replies } from '../replies.ts';
import type { OnProgress } from '../snapshots/progress.ts';
import type { TemplateResult } from '../snapshots/templates.ts';

/**
 * What the routes call. A signal fires when the caller has gone away or the controller is ending. `requestKey` names the
 * request in what it makes, where its reply is kept.
 */
export interface Services {
  snapshots: {
    list(): Promise<SnapshotInfo[]>;
    info(tag: string): Promise<SnapshotInfo>;
    detail(tag: string): Promise<SnapshotInfoDetail>;
    create(
      request: CreateSnapshotRequest,
      signal: AbortSignal,
      onProgress: OnProgress,
      requestKey: string | null,
    ): Promise<TemplateResult>;
    remove(tag: string, query: DeleteSnapshotQuery): Promise<void>;
    compact(tag: string, to: string, signal: AbortSignal): Promise<SnapshotInfo>;
    export(tag: string, request: ExportSnapshotRequest, signal: AbortSignal): Promise<ExportSnapshotResponse>;
    import(tag: string, request: ImportSnapshotRequest, signal: AbortSignal): Promise<SnapshotInfo>;
    prune(request: PruneSnapshotsRequest): Promise<PruneSnapshotsResponse>;
  };
  sandboxes: {
    list(query: ListSandboxesQuery): SandboxInfo[];
    get(id: string): SandboxInfo;
    /** With `partial`, one result each where some have failed. */
    fork(
      request: CreateSandboxesRequest,
      signal: AbortSignal,
      requestKey: string | null,
    ): Promise<SandboxInfo[] | PartialForkResponse>;
    update(id: string, request: UpdateSandboxRequest): Promise<SandboxInfo>;
    pause(id: string): Promise<SandboxInfo>;
    resume(id: string): Promise<SandboxInfo>;
    stats(id: string): Promise<SandboxStats>;
    logs(id: string, query: LogsQuery, signal: AbortSignal): AsyncGenerator<Uint8Array>;
    end(id: string): Promise<void>;
    branch(id: string, request: BranchRequest, requestKey: string | null): Promise<SnapshotInfo>;
    memory(id: string): Promise<MemoryInfo>;
    floor(id: string): Promise<FloorInfo>;
  };
  guests: {
    ping(id: string, signal: AbortSignal): Promise<PingResponse>;
    exec(id: string, request: ExecRequest, signal: AbortSignal): Promise<ExecResponse>;
    eval(id: string, request: EvalRequest, signal: AbortSignal): Promise<EvalResponse>;
    start(id: string, request: StartCommandRequest, signal: AbortSignal): Promise<CommandInfo>;
    startAndFollow(id: string, request: StartCommandRequest, signal: AbortSignal): AsyncGenerator<CommandEvent>;
    list(id: string, signal: AbortSignal): Promise<CommandInfo[]>;
    get(id: string, commandId: string, signal: AbortSignal): Promise<CommandInfo>;
    output(id: string, commandId: string, query: CommandOutputQuery, signal: AbortSignal): AsyncGenerator<CommandEvent>;
    writeStdin(id: string, commandId: string, data: Bytes, close: boolean, signal: AbortSignal): Promise<void>;
    signal(id: string, commandId: string, signalName: string | number, signal: AbortSignal): Promise<void>;
    forget(id: string, commandId: string, signal: AbortSignal): Promise<void>;
    readFile(id: string, path: string, signal: AbortSignal): Promise<FileContents>;
    writeFile(id: string, query: FileQuery, data: Bytes, signal: AbortSignal): Promise<void>;
    removeFile(id: string, path: string, recursive: boolean, signal: AbortSignal): Promise<void>;
    listDir(id: string, path: string, signal: AbortSignal): Promise<DirEntry[]>;
  };
  workspaces: {
    list(): WorkspaceInfo[];
    get(name: string): WorkspaceInfo;
    create(request: CreateWorkspaceRequest, signal: AbortSignal): Promise<WorkspaceInfo>;
    remove(name: string): Promise<void>;
    suspend(name: string): Promise<WorkspaceInfo>;
    resume(name: string, signal: AbortSignal): Promise<WorkspaceInfo>;
  };
  /** What happens from now on, or after the event `after`, until the signal fires. */
  events(query: EventsQuery, signal: AbortSignal): AsyncGenerator<ControllerEvent>;
  replies: Pick<Replies, 'answer'>;
  host: {
    info(): Promise<HostInfo>;
    /** Resolves before the controller ends, so that the reply can be sent. */
    shutdown(endSandboxes: boolean): Promise<ShutdownResponse>;
  };
}
