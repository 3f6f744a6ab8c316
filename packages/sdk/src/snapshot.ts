import type {
  CreateSnapshotRequest,
  PruneSnapshotsRequest,
  PruneSnapshotsResponse,
  SnapshotInfo,
  SnapshotInfoDetail,
  SnapshotProgressEvent,
  SnapshotResultEvent,
} from '@forkd/api';
import type { ForkdClient } from './client.ts';
import { sleep, startDeadline } from './deadline.ts';
import { errorFromEvent, ForkdError, isForkdError } from './errors.ts';
import { callOptions, clientFrom, wholeSecs, type ClientOptions, type RequestOptions } from './options.ts';
import { Sandbox, type CreateOptions } from './sandbox.ts';

export type BuildOptions = ClientOptions & { onProgress?: (event: SnapshotProgressEvent) => void };

/** In milliseconds: `build_ms`, `boot_ms`, `warm_ms`, `snapshot_ms`. */
export type BuildTimes = Omit<SnapshotResultEvent, 'type' | 'snapshot'>;

export type DeleteOptions = {
  /** What was branched from it goes too. */
  cascade?: boolean | undefined;
  /** What was branched from it stays, and can still be forked. */
  force?: boolean | undefined;
};

export type PruneOptions = ClientOptions & {
  /** Branches older than that are due. */
  olderThanMs?: number | undefined;
  /** Of the branches of each template so many of the newest stay. */
  keep?: number | undefined;
  /** Only say what would be removed. */
  dryRun?: boolean | undefined;
};

const POLL_MS = 50;
/** The disk may have gigabytes to write. */
const WAIT_TIMEOUT_MS = 600_000;

/**
 * A named point that sandboxes start from: a template, or a branch of a sandbox.
 * All operations reject with a ForkdError: `not_found_snapshot` when there is none.
 */
export class Snapshot {
  readonly tag: string;
  /** As it was when this object was made; `getInfo` asks again. */
  readonly info: SnapshotInfo;
  readonly client: ForkdClient;

  constructor(client: ForkdClient, info: SnapshotInfo) {
    this.client = client;
    this.info = info;
    this.tag = info.tag;
  }

  /** Builds the image, boots it, warms it, and takes the snapshot. Minutes, where the image is not there yet. */
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

  /** Those that are being written, and those that failed, too. */
  static async list(options: ClientOptions = {}): Promise<Snapshot[]> {
    const client = clientFrom(options);
    const infos = await client.listSnapshots(callOptions(options));
    return infos.map((info) => new Snapshot(client, info));
  }

  /** False when there was none. Rejects with `has_dependents` without one of the two, where something was branched from it. */
  static async delete(tag: string, options: ClientOptions & DeleteOptions = {}): Promise<boolean> {
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

  /** Removes branches that are old or many. Templates, and what others need, stay. */
  static prune(options: PruneOptions = {}): Promise<PruneSnapshotsResponse> {
    const request: PruneSnapshotsRequest = {};
    if (options.olderThanMs !== undefined) request.older_than_secs = wholeSecs(options.olderThanMs);
    if (options.keep !== undefined) request.keep = options.keep;
    if (options.dryRun !== undefined) request.dry_run = options.dryRun;
    return clientFrom(options).pruneSnapshots(request, callOptions(options));
  }

  /** Starts `n` sandboxes from it, in one request: all of them, or none. */
  fork(n = 1, options: Omit<CreateOptions, keyof ClientOptions> & RequestOptions = {}): Promise<Sandbox[]> {
    return Sandbox.createMany(this.tag, n, { ...options, client: this.client });
  }

  getInfo(options: RequestOptions = {}): Promise<SnapshotInfo> {
    return this.client.getSnapshot(this.tag, callOptions(options));
  }

  /** Its sizes in bytes, its ancestors and its dependents. */
  detail(options: RequestOptions = {}): Promise<SnapshotInfoDetail> {
    return this.client.getSnapshotDetail(this.tag, callOptions(options));
  }

  delete(options: RequestOptions & DeleteOptions = {}): Promise<boolean> {
    return Snapshot.delete(this.tag, { ...options, client: this.client });
  }

  /** Writes it anew under the tag `to`, with all its memory in one layer: the new one needs none of its ancestors. */
  async compact(to: string, options: RequestOptions = {}): Promise<Snapshot> {
    return new Snapshot(this.client, await this.client.compactSnapshot(this.tag, to, callOptions(options)));
  }

  /**
   * Waits for a snapshot that was answered early, and returns it as it then is. `requestTimeoutMs` is for the whole wait;
   * default 10 minutes. Rejects with `branch_failed`, and the reason, when it failed.
   */
  async waitUntil(until: 'ready' | 'durable', options: RequestOptions = {}): Promise<Snapshot> {
    const deadline = startDeadline(callOptions(options), WAIT_TIMEOUT_MS, `snapshot "${this.tag}" ${until}`);
    try {
      for (;;) {
        const info = await this.client.getSnapshot(this.tag, { signal: deadline.signal });
        if (info.status === 'failed') {
          const reason = info.error ?? 'no reason was given';
          throw new ForkdError('branch_failed', `snapshot "${this.tag}" failed: ${reason}`);
        }
        if (info.status === 'ready' && (until === 'ready' || info.durable !== false)) {
          return new Snapshot(this.client, info);
        }
        await sleep(POLL_MS, deadline.signal);
      }
    } catch (error) {
      throw deadline.explain(error);
    } finally {
      deadline.release();
    }
  }
}
