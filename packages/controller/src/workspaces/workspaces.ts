import type { CreateWorkspaceRequest, WorkspaceInfo, WorkspaceStatus } from '@forkd/api';
import { ApiError, newWorkspaceId } from '@forkd/api';
import { removeFile } from '@forkd/store';
import type { Logger } from 'pino';

import { during, messageOf } from '../errors.ts';
import type { EventLog } from '../events.ts';
import type { BranchService } from '../sandboxes/branch.ts';
import type { ForkService } from '../sandboxes/fork.ts';
import type { Registry } from '../sandboxes/registry.ts';
import type { Sandbox } from '../sandboxes/sandbox.ts';
import type { Catalog } from '../snapshots/catalog.ts';
import type { Removal } from '../snapshots/removal.ts';
import type { WorkspaceRecord } from './record.ts';
import { readRecords, recordPath, writeRecord } from './record.ts';

/**
 * Sandboxes with a name that outlive their VM. A record says what a workspace is meant to be; which sandbox is live, the
 * sandboxes say themselves, so that the two cannot disagree after a crash. Each suspension is a snapshot of its own, and
 * the one before is removed once the next is on disk and noted.
 */
export class Workspaces {
  readonly #dir: string;
  readonly #registry: Registry;
  readonly #catalog: Catalog;
  readonly #forks: ForkService;
  readonly #branches: Pick<BranchService, 'branch'>;
  readonly #removal: Removal;
  readonly #events: EventLog;
  readonly #log: Logger;
  readonly #records = new Map<string, WorkspaceRecord>();
  /** Those that something is being done to. */
  readonly #busy = new Set<string>();

  constructor(parts: {
    dir: string;
    registry: Registry;
    catalog: Catalog;
    forks: ForkService;
    branches: Pick<BranchService, 'branch'>;
    removal: Removal;
    events: EventLog;
    log: Logger;
  }) {
    this.#dir = parts.dir;
    this.#registry = parts.registry;
    this.#catalog = parts.catalog;
    this.#forks = parts.forks;
    this.#branches = parts.branches;
    this.#removal = parts.removal;
    this.#events = parts.events;
    this.#log = parts.log;
  }

  /** At the start, once the sandboxes have been recovered: what a crash left in the middle goes on or is taken back. */
  async recover(): Promise<void> {
    const { records, unreadable } = await readRecords(this.#dir);
    for (const file of unreadable) this.#log.error({ file, dir: this.#dir }, 'a workspace cannot be read');
    for (const record of records) {
      this.#records.set(record.name, record);
      const live = this.#liveOf(record);
      // It was suspended, and the controller ended before its sandbox was.
      if (live !== undefined && !record.is_running) await this.#registry.end(live);
      await this.#removeStates(record);
    }
    this.#events.listen(({ type, workspace, reason }) => {
      const record = workspace === undefined ? undefined : this.#records.get(workspace);
      if (type !== 'sandbox.ended' || record === undefined || this.#statusOf(record) !== 'stale') return;
      const why = reason === undefined ? {} : { reason };
      if (!this.#busy.has(record.name)) this.#events.emit('workspace.stale', { workspace: record.name, ...why });
    });
  }

  list(): WorkspaceInfo[] {
    return [...this.#records.values()]
      .toSorted((a, b) => a.created_at_unix - b.created_at_unix || a.name.localeCompare(b.name))
      .map((record) => this.#info(record));
  }

  get(name: string): WorkspaceInfo {
    return this.#info(this.#find(name));
  }

  /** The workspace that a snapshot is the state of, in words; `null` for any other snapshot. */
  reservedBy(tag: string): string | null {
    const owner = [...this.#records.values()].find(({ state_tag: stateTag }) => stateTag === tag);
    return owner === undefined ? null : `it is the state of workspace '${owner.name}'`;
  }

  async create(request: CreateWorkspaceRequest, signal: AbortSignal): Promise<WorkspaceInfo> {
    const { name, snapshot_tag: snapshotTag } = request;
    if (this.#records.has(name)) throw new ApiError('workspace_exists', `There is a workspace '${name}' already.`);
    return this.#alone(name, async () => {
      const nowUnix = unixNow();
      const record: WorkspaceRecord = {
        format: 1,
        id: newWorkspaceId(),
        name,
        source_snapshot_tag: snapshotTag,
        state_tag: null,
        suspensions: 0,
        is_running: true,
        created_at_unix: nowUnix,
        last_active_unix: nowUnix,
        memory_limit_mib: request.memory_limit_mib ?? null,
        per_child_netns: request.per_child_netns ?? false,
        labels: request.labels ?? {},
      };
      await this.#save(record);
      try {
        await this.#start(record, snapshotTag, signal);
      } catch (error) {
        await this.#forget(record);
        throw error;
      }
      this.#events.emit('workspace.created', { workspace: name, snapshot: snapshotTag });
      return this.#info(record);
    });
  }

  /** Branches its sandbox, and ends that once the branch is on disk. */
  async suspend(name: string): Promise<WorkspaceInfo> {
    return this.#alone(name, async () => {
      const record = this.#find(name);
      const live = this.#liveOf(record);
      if (live === undefined) {
        const sentence = `Workspace '${name}' is ${this.#statusOf(record)}: there is nothing to suspend.`;
        throw new ApiError('workspace_not_running', sentence);
      }
      const suspensions = record.suspensions + 1;
      // Also one that was taken for nothing must not take the next one's tag.
      await this.#save({ ...record, suspensions });
      const tag = stateTagOf(record, suspensions);
      try {
        await this.#branches.branch(live.id, { tag, mode: 'diff', until: 'durable' });
      } catch (error) {
        throw during(`Workspace '${name}' runs on`, error);
      }
      const suspended = { ...record, suspensions, state_tag: tag, is_running: false, last_active_unix: unixNow() };
      await this.#save(suspended);
      await this.#registry.end(live);
      await this.#removeStates(suspended);
      this.#events.emit('workspace.suspended', { workspace: name, snapshot: tag });
      return this.#info(suspended);
    });
  }

  /** Starts it from its last state, or from its source if it never had one. A running one stays as it is. */
  async resume(name: string, signal: AbortSignal): Promise<WorkspaceInfo> {
    return this.#alone(name, async () => {
      const record = this.#find(name);
      if (this.#liveOf(record) !== undefined) return this.#info(record);
      const tag = record.state_tag ?? record.source_snapshot_tag;
      const running = { ...record, is_running: true, last_active_unix: unixNow() };
      await this.#save(running);
      try {
        await this.#start(running, tag, signal);
      } catch (error) {
        await this.#save(record);
        throw error;
      }
      this.#events.emit('workspace.resumed', { workspace: name, snapshot: tag });
      return this.#info(running);
    });
  }

  /** Ends its sandbox and removes its state. The snapshot that it came from stays. */
  async remove(name: string): Promise<void> {
    await this.#alone(name, async () => {
      const record = this.#find(name);
      const live = this.#liveOf(record);
      if (live !== undefined) await this.#registry.end(live);
      await this.#forget(record);
      await this.#removeStates({ ...record, state_tag: null });
      this.#events.emit('workspace.removed', { workspace: name });
    });
  }

  async #start(record: WorkspaceRecord, tag: string, signal: AbortSignal): Promise<void> {
    const request = {
      snapshot_tag: tag,
      memory_limit_mib: record.memory_limit_mib,
      per_child_netns: record.per_child_netns,
      labels: record.labels,
    };
    try {
      await this.#forks.fork(request, signal, { workspace: record.name });
    } catch (error) {
      throw during(`Workspace '${record.name}'`, error);
    }
  }

  /** Of its states all but the current one. Snapshots that came from them still have what they need. */
  async #removeStates(record: WorkspaceRecord): Promise<void> {
    const ofIt = (await this.#catalog.stored()).filter(({ tag }) => tag.startsWith(`${record.id}-`));
    for (const { tag } of ofIt) {
      if (tag === record.state_tag) continue;
      try {
        await this.#removal.remove(tag, { force: true });
      } catch (error) {
        this.#log.warn({ workspace: record.name, tag, reason: messageOf(error) }, 'could not remove an earlier state');
      }
    }
  }

  async #save(record: WorkspaceRecord): Promise<void> {
    await writeRecord(this.#dir, record);
    this.#records.set(record.name, record);
  }

  async #forget(record: WorkspaceRecord): Promise<void> {
    await removeFile(recordPath(this.#dir, record.name));
    this.#records.delete(record.name);
  }

  async #alone<T>(name: string, task: () => Promise<T>): Promise<T> {
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

  #find(name: string): WorkspaceRecord {
    const record = this.#records.get(name);
    if (record === undefined) throw new ApiError('not_found_workspace', `There is no workspace '${name}'.`);
    return record;
  }

  #liveOf({ name }: WorkspaceRecord): Sandbox | undefined {
    return this.#registry.list().find(({ record }) => record.workspace === name);
  }

  #statusOf(record: WorkspaceRecord): WorkspaceStatus {
    if (this.#liveOf(record) !== undefined) return 'running';
    return record.is_running ? 'stale' : 'suspended';
  }

  #info(record: WorkspaceRecord): WorkspaceInfo {
    const live = this.#liveOf(record);
    return {
      id: record.id,
      name: record.name,
      source_snapshot_tag: record.source_snapshot_tag,
      ...(record.state_tag !== null && { current_state_tag: record.state_tag }),
      status: this.#statusOf(record),
      ...(live !== undefined && { live_sandbox_id: live.id }),
      created_at_unix: record.created_at_unix,
      last_active_unix: record.last_active_unix,
      ...(record.memory_limit_mib !== null && { memory_limit_mib: record.memory_limit_mib }),
      ...(Object.keys(record.labels).length > 0 && { labels: record.labels }),
    };
  }
}

function stateTagOf({ id }: WorkspaceRecord, suspensions: number): string {
  return `${id}-${suspensions}`;
}

function unixNow(): number {
  return Math.floor(Date.now() / 1000);
}
