import { resolve } from 'node:path';
import { Blobs } from './blobs.ts';
import type { Blob, Digest } from './digest.ts';
import { StoreError, storeFailure } from './errors.ts';
import { Mutex, WriteGate } from './gate.ts';
import {
  type IndexEntry,
  type Paths,
  indexStamp,
  openLayout,
  pathsOf,
  readIndex,
  refillReserve,
  withReserve,
  writeIndex,
} from './layout.ts';
import { limits } from './limits.ts';
import { encodeConfig, encodeManifest, parseConfig, parseManifest } from './manifest.ts';
import { type SnapshotDraft, type StoredSnapshot, blobsOf } from './snapshot.ts';

/** A snapshot of the list: one that cannot be read stays visible, with the reason, so that it can be removed. */
export type Listed = { tag: string; snapshot: StoredSnapshot } | { tag: string; error: StoreError };

export interface GcOptions {
  /** The names that are needed although no snapshot may refer to them. Asked when the sweep's turn has come. */
  inUse: () => ReadonlySet<string>;
  /** Nothing goes, since others need what is not known here. */
  keepsAll?: boolean;
  afterSweep?: (keep: ReadonlySet<string>) => Promise<void>;
  signal?: AbortSignal;
}

/**
 * A snapshot store: an OCI image layout in one directory. One process at a time writes to it (the controller and the
 * pager that it drives count as one). Crash-safe by order: blobs, then the manifest, then the index.
 */
export class Store {
  readonly dir: string;
  readonly #paths: Paths;
  readonly #blobs: Blobs;
  readonly #index = new Mutex();
  readonly #gate = new WriteGate();
  /** The index as it was read last, and the identity of the file then: a large one takes long to parse. */
  #read: { stamp: string; entries: IndexEntry[] } | null = null;
  /** Manifest digest → what it says: a manifest never changes. */
  readonly #parsed = new Map<Digest, StoredSnapshot>();

  private constructor(paths: Paths) {
    this.dir = paths.root;
    this.#paths = paths;
    this.#blobs = new Blobs(paths);
  }

  /**
   * Opens the store, making it where there is none, and removes what a crash left half-written: what pagers write too,
   * unless one of them lives.
   */
  static async open(dir: string, { pagerLives = false }: { pagerLives?: boolean } = {}): Promise<Store> {
    const paths = pathsOf(resolve(dir));
    return guarded(`opening ${paths.root}`, async () => {
      await openLayout(paths);
      const store = new Store(paths);
      await readIndex(paths);
      await store.#blobs.sweepIngest(0, { keepsPagers: pagerLives });
      await refillReserve(paths);
      return store;
    });
  }

  blobPath(digest: Digest): string {
    return this.#blobs.path(digest);
  }

  /**
   * Keeps `gc` waiting while blobs are written. Call it before the first blob of a snapshot is written, and call the returned
   * function after the snapshot is written. The returned function is idempotent.
   */
  beginWrite(): Promise<() => void> {
    return this.#gate.enter();
  }

  putFile(path: string, options: { link?: boolean; signal?: AbortSignal } = {}): Promise<Blob> {
    return guarded(`taking in ${path}`, () => this.#blobs.putFile(path, options));
  }

  putBytes(bytes: Uint8Array): Promise<Blob> {
    return guarded('writing a blob', () => this.#blobs.putBytes(bytes));
  }

  /** Throws unless the blob is there and holds what its name says. */
  verify(digest: Digest, signal?: AbortSignal): Promise<void> {
    return guarded(`verifying ${digest}`, () => this.#blobs.verify(digest, signal));
  }

  /** Verifies a blob. This process reads an unchanged file only once. */
  verifyOnce(digest: Digest, signal?: AbortSignal): Promise<void> {
    return guarded(`verifying ${digest}`, () => this.#blobs.verifyOnce(digest, signal));
  }

  /** Throws unless the blob is there with its size. */
  check(blob: Blob): Promise<void> {
    return guarded(`looking for ${blob.digest}`, () => this.#blobs.check(blob));
  }

  /**
   * Writes a snapshot whose blobs are in the store already. It is listed once this has resolved, and durable. With `replace` it
   * takes the place of a snapshot that has its tag, in one step.
   */
  writeSnapshot(draft: SnapshotDraft, { replace = false }: { replace?: boolean } = {}): Promise<StoredSnapshot> {
    const { tag } = draft.config;
    return guarded(`writing snapshot '${tag}'`, async () => {
      for (const blob of [...draft.memory, draft.deviceState, draft.rootDisk, ...draft.disk])
        await this.#blobs.check(blob);
      const configBlob = await this.#blobs.putBytes(encodeConfig(draft.config));
      const bytes = encodeManifest(draft, configBlob);
      const manifest = await this.#blobs.putBytes(bytes);
      const snapshot = parseConfig(tag, manifest, parseManifest(tag, bytes), encodeConfig(draft.config));
      await this.#index.run(async () => {
        const entries = await this.#entries();
        const others = entries.filter((entry) => entry.tag !== tag);
        if (others.length < entries.length && !replace) {
          throw new StoreError('snapshot_exists', `There is a snapshot '${tag}' already.`, {
            hint: `Choose another tag, or remove it with 'forkd rmi ${tag}'.`,
          });
        }
        await writeIndex(this.#paths, [...others, { tag, manifest }]);
      });
      this.#parsed.set(manifest.digest, snapshot);
      return snapshot;
    });
  }

  async readSnapshot(tag: string): Promise<StoredSnapshot> {
    return guarded(`reading snapshot '${tag}'`, async () => {
      const entry = (await this.#entries()).find((candidate) => candidate.tag === tag);
      if (entry === undefined) throw unknown(tag);
      return this.#load(entry);
    });
  }

  async list(): Promise<Listed[]> {
    return guarded('listing snapshots', async () => {
      const listed: Listed[] = [];
      for (const entry of await this.#entries()) {
        try {
          listed.push({ tag: entry.tag, snapshot: await this.#load(entry) });
        } catch (error) {
          listed.push({ tag: entry.tag, error: storeFailure(error, `reading snapshot '${entry.tag}'`) });
        }
      }
      return listed;
    });
  }

  /** Takes snapshots out of the index, all or none. Their blobs go at the next `gc`. */
  async remove(...tags: readonly string[]): Promise<void> {
    await guarded(`removing ${tags.join(', ')}`, () =>
      this.#index.run(async () => {
        const entries = await this.#entries();
        for (const tag of tags) if (!entries.some((entry) => entry.tag === tag)) throw unknown(tag);
        const kept = entries.filter((entry) => !tags.includes(entry.tag));
        await withReserve(this.#paths, () => writeIndex(this.#paths, kept));
        for (const entry of entries) if (tags.includes(entry.tag)) this.#parsed.delete(entry.manifest.digest);
      }),
    );
  }

  /**
   * Removes the blobs that no snapshot and no digest of `inUse` refers to, and returns the bytes freed. Waits until no
   * snapshot is being written. Refuses while a manifest cannot be read: what that one refers to is not known.
   * `afterSweep` is told what was kept, while writers still wait: for those who hold copies of blobs elsewhere.
   */
  async gc(options: GcOptions): Promise<number> {
    const sweep = async () => {
      // Read here, not by the caller: what is in use may have changed while the sweep waited for its turn.
      const keep = new Set<string>(options.inUse());
      for (const entry of await this.#entries()) {
        for (const blob of blobsOf(await this.#load(entry))) keep.add(blob.digest);
      }
      const blobs = options.keepsAll === true ? 0 : await this.#blobs.sweep(keep);
      const freed = blobs + (await this.#blobs.sweepIngest(limits.ingestAgeMsMax));
      await refillReserve(this.#paths);
      await options.afterSweep?.(keep);
      return freed;
    };
    return guarded('collecting garbage', () => this.#gate.sweep(() => this.#index.run(sweep), options.signal));
  }

  async #entries(): Promise<readonly IndexEntry[]> {
    const stamp = await indexStamp(this.#paths);
    if (this.#read?.stamp === stamp) return this.#read.entries;
    const entries = await readIndex(this.#paths);
    // An index that is written meanwhile has another stamp, and is read again next time.
    this.#read = { stamp, entries };
    return entries;
  }

  async #load(entry: IndexEntry): Promise<StoredSnapshot> {
    const known = this.#parsed.get(entry.manifest.digest);
    if (known !== undefined) return known;
    const bytes = await this.#readPart(entry.tag, 'manifest', entry.manifest, limits.manifestBytesMax);
    const parsed = parseManifest(entry.tag, bytes);
    const config = await this.#readPart(entry.tag, 'config', parsed.config, limits.configBytesMax);
    const snapshot = parseConfig(entry.tag, entry.manifest, parsed, config);
    this.#parsed.set(entry.manifest.digest, snapshot);
    return snapshot;
  }

  async #readPart(tag: string, part: 'manifest' | 'config', blob: Blob, bytesMax: number): Promise<Buffer> {
    try {
      return await this.#blobs.read(blob, bytesMax);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      throw new StoreError('corrupt_manifest', `Snapshot '${tag}': ${part} cannot be read. ${error.message}`, {
        hint: `Remove it with 'forkd rmi ${tag}' and build it again.`,
        cause: error,
      });
    }
  }
}

function unknown(tag: string): StoreError {
  return new StoreError('unknown_snapshot', `There is no snapshot '${tag}'.`, { hint: `'forkd images' lists them.` });
}

async function guarded<T>(doing: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (error) {
    if (error instanceof Error && error.name === 'AbortError') throw error;
    throw storeFailure(error, doing);
  }
}
