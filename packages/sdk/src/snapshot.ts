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

/** Times of the stages in milliseconds: `build_ms`, `boot_ms`, `warm_ms`, `snapshot_ms`. */
export type BuildTimes = Omit<SnapshotResultEvent, 'type' | 'snapshot'>;

export interface DeleteOptions {
  /** Delete snapshots that were branched from this one too. */
  cascade?: boolean | undefined;
  /** Keep snapshots that were branched from this one. They can still be forked. */
  force?: boolean | undefined;
}

export type PruneOptions = ClientOptions & {
  /** Remove branches older than this. */
  olderThanMs?: number | undefined;
  /** Keep this many of the newest branches of each template. */
  keep?: number | undefined;
  /** Only report which branches would be removed. */
  dryRun?: boolean | undefined;
};

const POLL_MS = 50;
/** Long enough for gigabytes to be written to disk. */
const WAIT_TIMEOUT_MS = 600_000;

/**
 * A named point that sandboxes start from: a template, or a branch of a sandbox.
 * All operations reject with a ForkdError, such as `not_found_snapshot`.
 */
export class Snapshot {
  readonly tag: string;
  /** The state when this object was made. `getInfo` fetches the present state. */
  readonly info: SnapshotInfo;
  readonly client: ForkdClient;

  constructor(client: ForkdClient, info: SnapshotInfo) {
    this.client = client;
    this.info = info;
    this.tag = info.tag;
  }

  /** Builds the image, boots it, warms it up, and takes the snapshot. This takes minutes if the image is not built yet. */
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
    throw new ForkdError('stream_cut', `Snapshot "${request.tag}": the stream ended before the snapshot was made.`);
  }

  static async get(tag: string, options: ClientOptions = {}): Promise<Snapshot> {
    const client = clientFrom(options);
    return new Snapshot(client, await client.getSnapshot(tag, callOptions(options)));
  }

  /** Lists all snapshots, including those that are being written and those that failed. */
  static async list(options: ClientOptions = {}): Promise<Snapshot[]> {
    const client = clientFrom(options);
    const infos = await client.listSnapshots(callOptions(options));
    return infos.map((info) => new Snapshot(client, info));
  }

  /** False if the snapshot did not exist. Rejects with `has_dependents` if it has branches and neither option is set. */
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

  /** Removes branches that are too old or too many. Templates, and branches that others need, stay. */
  static prune(options: PruneOptions = {}): Promise<PruneSnapshotsResponse> {
    const request: PruneSnapshotsRequest = {};
    if (options.olderThanMs !== undefined) request.older_than_secs = wholeSecs(options.olderThanMs);
    if (options.keep !== undefined) request.keep = options.keep;
    if (options.dryRun !== undefined) request.dry_run = options.dryRun;
    return clientFrom(options).pruneSnapshots(request, callOptions(options));
  }

  /** Starts `n` sandboxes from this snapshot in one request: all or none. */
  fork(n = 1, options: Omit<CreateOptions, keyof ClientOptions> & RequestOptions = {}): Promise<Sandbox[]> {
    return Sandbox.createMany(this.tag, n, { ...options, client: this.client });
  }

  getInfo(options: RequestOptions = {}): Promise<SnapshotInfo> {
    return this.client.getSnapshot(this.tag, callOptions(options));
  }

  /** Returns sizes in bytes, ancestors and dependents. */
  detail(options: RequestOptions = {}): Promise<SnapshotInfoDetail> {
    return this.client.getSnapshotDetail(this.tag, callOptions(options));
  }

  delete(options: RequestOptions & DeleteOptions = {}): Promise<boolean> {
    return Snapshot.delete(this.tag, { ...options, client: this.client });
  }

  /**
   * Builds a template again, from what it was built from, and replaces it: for one that this host cannot restore any more. Rejects
   * with `unsupported` if that is not known.
   */
  async rebuild(options: Omit<BuildOptions, keyof ClientOptions> & RequestOptions = {}) {
    const { build } = await this.detail(options);
    if (build !== undefined) {
      return Snapshot.create({ ...build, tag: this.tag, replace: true }, { ...options, client: this.client });
    }
    const { branched_from: source } = this.info;
    const why = source === undefined ? 'it does not say what it was built from' : `it is a branch of sandbox ${source}`;
    throw new ForkdError('unsupported', `Snapshot "${this.tag}" cannot be built again: ${why}.`, {
      hint: 'Build a template with `forkd from-image`.',
    });
  }

  /** Writes a copy under the tag `to`, with all memory in one layer. The copy needs none of the ancestors. */
  async compact(to: string, options: RequestOptions = {}): Promise<Snapshot> {
    return new Snapshot(this.client, await this.client.compactSnapshot(this.tag, to, callOptions(options)));
  }

  /**
   * Waits until a snapshot is ready or durable, and returns its new state. `requestTimeoutMs` bounds the whole wait;
   * default: 10 minutes. Rejects with `branch_failed` and the reason if the snapshot failed.
   */
  async waitUntil(until: 'ready' | 'durable', options: RequestOptions = {}): Promise<Snapshot> {
    const deadline = startDeadline(callOptions(options), WAIT_TIMEOUT_MS, `snapshot "${this.tag}" ${until}`);
    try {
      for (;;) {
        const info = await this.client.getSnapshot(this.tag, { signal: deadline.signal });
        if (info.status === 'failed') {
          const reason = info.error ?? 'no reason was given';
          throw new ForkdError('branch_failed', `Snapshot "${this.tag}" failed: ${reason}`);
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
