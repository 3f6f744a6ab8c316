import { ApiError, type WorkspaceInfo, type WorkspaceStatus } from '@forkd/api';
import { removeFile } from '@forkd/store';
import type { Logger } from 'pino';
import type { Registry } from './registry.ts';
import type { Sandbox } from './sandbox.ts';
import { readRecords, recordPath, writeRecord, type WorkspaceRecord } from './workspace-record.ts';

interface WorkspacesParts {
  dir: string;
  registry: Registry;
  log: Logger;
}

/**
 * The workspaces of this data directory. A record says what a workspace is meant to be. The sandboxes themselves say which
 * of them is live, so that the two cannot disagree after a crash.
 */
export class Workspaces {
  readonly #parts: WorkspacesParts;
  readonly #records = new Map<string, WorkspaceRecord>();
  readonly #busy = new Set<string>();

  constructor(parts: WorkspacesParts) {
    this.#parts = parts;
  }

  /** Reads the records that earlier controllers left. */
  async load(): Promise<void> {
    const { dir, log } = this.#parts;
    const { records, unreadable } = await readRecords(dir);
    for (const file of unreadable) log.error({ file, dir }, 'a workspace cannot be read');
    for (const record of records) this.#records.set(record.name, record);
  }

  /** The records, oldest first. */
  list(): WorkspaceRecord[] {
    return [...this.#records.values()].toSorted(
      (a, b) => a.created_at_unix - b.created_at_unix || a.name.localeCompare(b.name),
    );
  }

  has(name: string): boolean {
    return this.#records.has(name);
  }

  /** Throws `name_taken` if a workspace has the name, or is getting it: a sandbox and a workspace never share one. */
  assertNameFree(name: string | null): void {
    if (name === null || (!this.has(name) && !this.isBusy(name))) return;
    throw new ApiError('name_taken', `The name '${name}' is that of a workspace.`, { hint: 'Choose another name.' });
  }

  find(name: string): WorkspaceRecord {
    const record = this.#records.get(name);
    if (record === undefined) throw new ApiError('not_found_workspace', `There is no workspace '${name}'.`);
    return record;
  }

  /** The workspace that a snapshot is the state of, in words; `null` for any other snapshot. */
  reservedBy(tag: string): string | null {
    const owner = this.list().find(({ state_tag: stateTag }) => stateTag === tag);
    return owner === undefined ? null : `it is the state of workspace '${owner.name}'`;
  }

  async save(record: WorkspaceRecord): Promise<void> {
    await writeRecord(this.#parts.dir, record);
    this.#records.set(record.name, record);
  }

  async forget(record: WorkspaceRecord): Promise<void> {
    await removeFile(recordPath(this.#parts.dir, record.name));
    this.#records.delete(record.name);
  }

  isBusy(name: string): boolean {
    return this.#busy.has(name);
  }

  /** Runs `task` unless another task runs on this workspace. */
  async alone<T>(name: string, task: () => Promise<T>): Promise<T> {
    if (this.#busy.has(name)) {
      throw new ApiError('workspace_busy', `Workspace '${name}' is being created, suspended, resumed or removed.`);
    }
    this.#busy.add(name);
    try {
      return await task();
    } finally {
      this.#busy.delete(name);
    }
  }

  liveOf({ name }: WorkspaceRecord): Sandbox | undefined {
    return this.#parts.registry.list().find(({ record }) => record.workspace === name);
  }

  statusOf(record: WorkspaceRecord): WorkspaceStatus {
    if (this.liveOf(record) !== undefined) return 'running';
    return record.is_running ? 'stale' : 'suspended';
  }

  info(record: WorkspaceRecord): WorkspaceInfo {
    const live = this.liveOf(record);
    return {
      id: record.id,
      name: record.name,
      source_snapshot_tag: record.source_snapshot_tag,
      ...(record.state_tag !== null && { current_state_tag: record.state_tag }),
      status: this.statusOf(record),
      ...(live !== undefined && { live_sandbox_id: live.id }),
      created_at_unix: record.created_at_unix,
      last_active_unix: record.last_active_unix,
      ...(record.memory_limit_mib !== null && { memory_limit_mib: record.memory_limit_mib }),
      ...(Object.keys(record.labels).length > 0 && { labels: record.labels }),
    };
  }
}
