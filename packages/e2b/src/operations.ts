import type {
  BranchRequest,
  CommandEvent,
  CommandInfo,
  CommandOutputQuery,
  CreateSandboxesRequest,
  DeleteSnapshotQuery,
  DirEntry,
  FileChangeEvent,
  FileQuery,
  FileStat,
  ListSandboxesQuery,
  MakeDirQuery,
  PartialForkResponse,
  PtySize,
  RenameFileRequest,
  SandboxInfo,
  SandboxStats,
  SnapshotInfo,
  StartCommandRequest,
  StatQuery,
  UpdateSandboxRequest,
  WatchQuery,
} from '@forkd/api';

/** The content of a file. The size is absent for files that do not know it, as those of /proc. */
interface FileContents {
  sizeBytes: number | undefined;
  data: AsyncIterable<Uint8Array>;
}

/** The operations of forkd that E2B's wire is translated to. The controller binds its own to its host. */
export interface Operations {
  fork(
    request: CreateSandboxesRequest,
    signal: AbortSignal,
    requestKey: string | null,
  ): Promise<SandboxInfo[] | PartialForkResponse>;
  undoFork(made: SandboxInfo[]): Promise<void>;
  getSandbox(id: string): SandboxInfo;
  listSandboxes(query: ListSandboxesQuery): SandboxInfo[];
  updateSandbox(id: string, request: UpdateSandboxRequest): Promise<SandboxInfo>;
  pause(id: string): Promise<SandboxInfo>;
  resume(id: string): Promise<SandboxInfo>;
  endSandbox(id: string): Promise<void>;
  getStats(id: string): Promise<SandboxStats>;

  branch(id: string, request: BranchRequest, requestKey: string | null): Promise<SnapshotInfo>;
  getSnapshot(tag: string): Promise<SnapshotInfo>;
  listSnapshots(): Promise<SnapshotInfo[]>;
  removeSnapshot(tag: string, query: DeleteSnapshotQuery): Promise<void>;

  startCommand(id: string, request: StartCommandRequest, signal: AbortSignal): Promise<CommandInfo>;
  forgetCommand(id: string, commandId: string, signal: AbortSignal): Promise<void>;
  startAndFollow(id: string, request: StartCommandRequest, signal: AbortSignal): AsyncGenerator<CommandEvent>;
  followOutput(
    id: string,
    commandId: string,
    query: CommandOutputQuery,
    signal: AbortSignal,
  ): AsyncGenerator<CommandEvent>;
  listCommands(id: string, signal: AbortSignal): Promise<CommandInfo[]>;
  getCommand(id: string, commandId: string, signal: AbortSignal): Promise<CommandInfo>;
  writeStdin(id: string, commandId: string, data: Uint8Array, close: boolean, signal: AbortSignal): Promise<void>;
  signalCommand(id: string, commandId: string, name: string | number, signal: AbortSignal): Promise<void>;
  resizeTerminal(id: string, commandId: string, size: PtySize, signal: AbortSignal): Promise<void>;

  readFile(id: string, path: string, signal: AbortSignal): Promise<FileContents>;
  writeFile(
    id: string,
    query: FileQuery,
    data: Uint8Array | AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<void>;
  statFile(id: string, query: StatQuery, signal: AbortSignal): Promise<FileStat>;
  listDir(id: string, path: string, signal: AbortSignal): Promise<DirEntry[]>;
  makeDir(id: string, query: MakeDirQuery, signal: AbortSignal): Promise<void>;
  renameFile(id: string, request: RenameFileRequest, signal: AbortSignal): Promise<void>;
  removeFile(id: string, path: string, recursive: boolean, signal: AbortSignal): Promise<void>;
  watchFiles(id: string, query: WatchQuery, signal: AbortSignal): Promise<AsyncGenerator<FileChangeEvent>>;
}
