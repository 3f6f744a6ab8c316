import type {
  BranchRequest,
  CommandEvent,
  CommandInfo,
  CommandOutputQuery,
  CreateSandboxesRequest,
  CreateSnapshotRequest,
  DeleteSnapshotQuery,
  DirEntry,
  EvalRequest,
  EvalResponse,
  ExecRequest,
  ExecResponse,
  FileQuery,
  FloorInfo,
  HostInfo,
  MemoryInfo,
  PingResponse,
  SandboxInfo,
  ShutdownResponse,
  SnapshotInfo,
  SnapshotInfoDetail,
  StartCommandRequest,
} from '@forkd/api';
import type { Bytes, FileContents } from '@forkd/guest';

import type { OnProgress } from '../snapshots/progress.ts';
import type { TemplateResult } from '../snapshots/templates.ts';

/** What the routes call. A signal fires when the caller has gone away or the controller is ending. */
export interface Services {
  snapshots: {
    list(): Promise<SnapshotInfo[]>;
    info(tag: string): Promise<SnapshotInfo>;
    detail(tag: string): Promise<SnapshotInfoDetail>;
    create(request: CreateSnapshotRequest, signal: AbortSignal, onProgress: OnProgress): Promise<TemplateResult>;
    remove(tag: string, query: DeleteSnapshotQuery): Promise<void>;
  };
  sandboxes: {
    list(): SandboxInfo[];
    get(id: string): SandboxInfo;
    fork(request: CreateSandboxesRequest, signal: AbortSignal): Promise<SandboxInfo[]>;
    end(id: string): Promise<void>;
    branch(id: string, request: BranchRequest): Promise<SnapshotInfo>;
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
  host: {
    info(): Promise<HostInfo>;
    /** Resolves before the controller ends, so that the reply can be sent. */
    shutdown(endSandboxes: boolean): Promise<ShutdownResponse>;
  };
}
