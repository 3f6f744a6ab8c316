import type {
  CreateSnapshotRequest,
  SnapshotInfo,
  SnapshotInfoDetail,
  SnapshotProgressEvent,
  SnapshotResultEvent,
} from '@forkd/api';
import type { ForkdClient } from './client.ts';
import { sleep, type CallOptions } from './deadline.ts';
import { errorFromEvent, ForkdError, isForkdError } from './errors.ts';
import { callOptions, clientFrom, type ClientOptions } from './options.ts';
import { Sandbox } from './sandbox.ts';

export type BuildOptions = ClientOptions & { onProgress?: (event: SnapshotProgressEvent) => void };

export type BuildTimes = Omit<SnapshotResultEvent, 'type' | 'snapshot'>;

const POLL_MS = 50;

/** A named point that sandboxes start from: a template, or a branch of a sandbox. */
export class Snapshot {
  readonly tag: string;
  /** As it was when this object was made. */
  readonly info: SnapshotInfo;
  readonly client: ForkdClient;

  constructor(client: ForkdClient, info: SnapshotInfo) {
    this.client = client;
    this.info = info;
    this.tag = info.tag;
  }

  /** Builds the image, boots it, warms it, and takes the snapshot. */
  static async create(
    request: CreateSnapshotRequest,
    options: BuildOptions = {},
  ): Promise<{ snapshot: Snapshot; times: BuildTimes }> {
    const client = clientFrom(options);
    for await (const event of client.createSnapshotEvents(request, callOptions(options))) {
      if (event.type === 'progress') {
        options.onProgress?.(event);
      } else if (event.type === 'error') {
        throw errorFromEvent(event);
      } else {
        const { type: _, snapshot, ...times } = event;
        return { snapshot: new Snapshot(client, snapshot), times };
      }
    }
    throw new ForkdError('stream_cut', `snapshot "${request.tag}": the controller stopped telling before it was done`);
  }

  static async get(tag: string, options: ClientOptions = {}): Promise<Snapshot> {
    const client = clientFrom(options);
    return new Snapshot(client, await client.getSnapshot(tag, callOptions(options)));
  }

  static async list(options: ClientOptions = {}): Promise<Snapshot[]> {
    const client = clientFrom(options);
    const infos = await client.listSnapshots(callOptions(options));
    return infos.map((info) => new Snapshot(client, info));
  }

  /** False when there was none. `cascade` removes its dependents too; `force` leaves them, and removes only the name. */
  static async remove(
    tag: string,
    options: ClientOptions & { cascade?: boolean; force?: boolean } = {},
  ): Promise<boolean> {
    const query: { cascade?: boolean; force?: boolean } = {};
    if (options.cascade !== undefined) query.cascade = options.cascade;
    if (options.force !== undefined) query.force = options.force;
    try {
      await clientFrom(options).deleteSnapshot(tag, query, callOptions(options));
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_snapshot')) return false;
      throw error;
    }
  }

  /** Starts `n` sandboxes from it. */
  fork(n = 1, options: CallOptions = {}): Promise<Sandbox[]> {
    return Sandbox.createMany(this.tag, n, { ...options, client: this.client });
  }

  detail(options: CallOptions = {}): Promise<SnapshotInfoDetail> {
    return this.client.getSnapshotDetail(this.tag, options);
  }

  remove(options: CallOptions & { cascade?: boolean; force?: boolean } = {}): Promise<boolean> {
    return Snapshot.remove(this.tag, { ...options, client: this.client });
  }

  /** Waits for a snapshot that was answered early. Rejects when it failed, with the reason. */
  async wait(until: 'ready' | 'durable', options: { signal?: AbortSignal } = {}): Promise<Snapshot> {
    for (;;) {
      const info = await this.client.getSnapshot(this.tag, options);
      if (info.status === 'failed') {
        throw new ForkdError('branch_failed', `snapshot "${this.tag}" failed: ${info.error ?? 'no reason was given'}`);
      }
      if (info.status === 'ready' && (until === 'ready' || info.durable !== false)) {
        return new Snapshot(this.client, info);
      }
      await sleep(POLL_MS, options.signal);
    }
  }
}
