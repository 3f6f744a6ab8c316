import {
  ApiError,
  type Image,
  isTag,
  type Refresh,
  type Safety,
  type SnapshotInfo,
  type SnapshotInfoDetail,
  type SnapshotNetwork,
} from '@forkd/api';
import {
  dependentsOf,
  type Blob,
  type Digest,
  type MachineRecord,
  type SnapshotConfig,
  type SnapshotDraft,
  type Store,
  type StoredSnapshot,
} from '@forkd/store';
import { settledWithin } from '../deadline.ts';
import { messageOf, toApiError, withContext } from '../errors.ts';
import { limits } from '../limits.ts';
import { detailOf, infoOfDraft, infoOfListed } from './describe.ts';
import { Draft, type DraftFacts, type RamSnapshot } from './draft.ts';
import type { EventLog, Subject } from './events.ts';
import type { Housekeeping } from './housekeeping.ts';
import { snapshotNetworkOf } from './snapshot-network.ts';

/** Everything that starting a child of a snapshot needs. */
export interface ForkSource {
  tag: string;
  /** The digest of the manifest; `null` while the snapshot is in RAM only. */
  digest: Digest | null;
  /** The draft, while the snapshot is in RAM only. */
  draft: Draft | null;
  machine: MachineRecord;
  image: Image;
  source: string;
  python: boolean;
  refresh: Refresh | null;
  safety: Safety;
  network: SnapshotNetwork | null;
  /** Bottom layer first. */
  stack: readonly string[];
  deviceState: Blob;
  rootDisk: Blob;
  /** The layers of the disk, bottom first. Empty without one. */
  disk: readonly string[];
}

/** The blobs of a snapshot, and the facts that were not known when its tag was claimed. */
export interface SnapshotContents extends Pick<SnapshotDraft, 'memory' | 'deviceState' | 'rootDisk' | 'disk'> {
  facts?: Partial<DraftFacts>;
}

interface MakeOptions {
  /** The beginning of an error message. */
  context: string;
  signal: AbortSignal;
  note?: NoteTag;
  /** True: the snapshot takes the place of one that has its tag, once it is on disk. */
  replace?: boolean;
}

/** Notes a claimed tag. The catalog waits for this before anything is made. */
type NoteTag = (tag: string) => Promise<void>;

interface CatalogParts {
  store: Store;
  events: EventLog;
  housekeeping: Pick<Housekeeping, 'request'>;
}

/** Every snapshot by tag: those in the store, and drafts that are not there yet or have failed. */
export class Catalog {
  readonly #parts: CatalogParts;
  readonly #drafts = new Map<string, Draft>();
  /** Drafts that are not in the list: another snapshot has their tag until they are on disk. */
  readonly #replacements = new Map<string, Draft>();

  constructor(parts: CatalogParts) {
    this.#parts = parts;
  }

  get inFlightCount(): number {
    return [...this.#drafts.values(), ...this.#replacements.values()].filter((draft) => draft.inFlight).length;
  }

  /** Makes a snapshot, whole or not at all: claims its tag, runs `work` and publishes the result. A failure frees the tag. */
  async make(
    facts: DraftFacts,
    { context, signal, note, replace }: MakeOptions,
    work: (draft: Draft) => Promise<SnapshotContents>,
  ): Promise<SnapshotInfo> {
    const draft = await (replace === true ? this.#claimPlace(facts) : this.claim(facts, note));
    const explain = (error: unknown) => withContext(context, signal.aborted ? signal.reason : error);
    try {
      await this.write(draft, explain, async () => {
        await this.publish(draft, await work(draft));
      });
    } catch (error) {
      this.#forget(draft);
      throw error;
    }
    return this.describe(draft);
  }

  /** Claims a tag. The draft is in the list from here on, and no other snapshot can have the tag until it has failed. */
  async claim(facts: DraftFacts, note?: NoteTag): Promise<Draft> {
    const { tag } = facts;
    this.#assertUnclaimed(tag);
    // A draft that failed holds nothing: its tag can be claimed again.
    const draft = new Draft(facts);
    // The draft is set before the store is asked, so that of two claims at once only one can pass.
    this.#drafts.set(tag, draft);
    try {
      if ((await this.#parts.store.list()).some((entry) => entry.tag === tag)) throw tagExists(tag);
      await note?.(tag);
      this.#parts.events.emit('snapshot.writing', subjectOf(draft));
      return draft;
    } catch (error) {
      this.#drafts.delete(tag);
      throw error;
    }
  }

  /** Claims a tag that another snapshot may have, and keeps until this one is on disk. */
  async #claimPlace(facts: DraftFacts): Promise<Draft> {
    const { tag } = facts;
    this.#assertUnclaimed(tag);
    this.dropFailed(tag);
    const draft = new Draft(facts);
    this.#replacements.set(tag, draft);
    try {
      const isTaken = (await this.#parts.store.list()).some((entry) => entry.tag === tag);
      if (!isTaken) this.#drafts.set(tag, draft);
      this.#parts.events.emit('snapshot.writing', subjectOf(draft));
      return draft;
    } catch (error) {
      this.#forget(draft);
      throw error;
    }
  }

  #assertUnclaimed(tag: string): void {
    assertTag(tag);
    const rivals = [this.#drafts.get(tag), this.#replacements.get(tag)];
    if (rivals.some((rival) => rival?.inFlight === true)) {
      throw new ApiError('snapshot_in_flight', `A snapshot '${tag}' is being written already.`);
    }
  }

  #forget(draft: Draft): void {
    for (const drafts of [this.#drafts, this.#replacements]) {
      if (drafts.get(draft.tag) === draft) drafts.delete(draft.tag);
    }
  }

  /**
   * Runs `work`, which publishes the draft. Housekeeping removes no blob meanwhile. When `work` fails, the draft stays in the
   * list with the error that `explain` returns, and that error is thrown.
   */
  async write(
    draft: Draft,
    explain: (error: unknown) => ApiError | Promise<ApiError>,
    work: () => Promise<void>,
  ): Promise<void> {
    const { store, events, housekeeping } = this.#parts;
    const endWrite = await store.beginWrite();
    try {
      await work();
    } catch (error) {
      const failure = await explain(error);
      draft.fail(failure);
      events.emit('snapshot.failed', { ...subjectOf(draft), reason: failure.message });
      housekeeping.request();
      throw failure;
    } finally {
      endWrite();
    }
  }

  /** Marks a draft as ready: the pager holds all of its memory, so sandboxes can be forked from it. */
  becomeReady(draft: Draft, ram: RamSnapshot): void {
    draft.becomeReady(ram);
    this.#parts.events.emit('snapshot.ready', subjectOf(draft));
  }

  /** Writes a draft to the store, which makes it durable. */
  async publish(draft: Draft, { facts, ...blobs }: SnapshotContents): Promise<StoredSnapshot> {
    const config = configOf({ ...draft.facts, ...facts }, draft.stats);
    const replace = this.#replacements.get(draft.tag) === draft;
    const stored = await this.#parts.store.writeSnapshot({ config, ...blobs }, { replace });
    draft.becomeDurable(stored);
    this.#forget(draft);
    if (replace) this.#parts.housekeeping.request();
    this.#parts.events.emit('snapshot.durable', subjectOf(draft));
    return stored;
  }

  async list(): Promise<SnapshotInfo[]> {
    // Drafts are read before the store: a snapshot that becomes durable in between would else be in neither.
    const drafts = new Map(this.#drafts);
    const stored = (await this.#parts.store.list()).filter(({ tag }) => !drafts.has(tag));
    return [
      ...stored.map((entry) => infoOfListed(entry, this.#parts.store.dir)),
      ...[...drafts.values()].map((draft) => infoOfDraft(draft, this.#parts.store.dir)),
    ].toSorted((a, b) => a.created_at_unix - b.created_at_unix || a.tag.localeCompare(b.tag));
  }

  async info(tag: string): Promise<SnapshotInfo> {
    assertTag(tag);
    const found = (await this.list()).find((entry) => entry.tag === tag);
    if (found === undefined) throw notFound(tag);
    return found;
  }

  /** Describes a draft as it is at this moment. */
  describe(draft: Draft): SnapshotInfo {
    return infoOfDraft(draft, this.#parts.store.dir);
  }

  async detail(tag: string): Promise<SnapshotInfoDetail> {
    assertTag(tag);
    await this.settled(tag);
    const draft = this.#drafts.get(tag);
    if (draft !== undefined) throw notYet(draft);
    const snapshot = await this.#read(tag);
    return detailOf(snapshot, this.#parts.store.dir, await this.stored(), await this.dependents(tag));
  }

  /** Everything that a child of the snapshot starts from. Throws `not_forkable` with what is missing. */
  async forkSource(tag: string): Promise<ForkSource> {
    assertTag(tag);
    const draft = this.#drafts.get(tag);
    if (draft === undefined) {
      const { config, manifest, memory, deviceState, rootDisk, disk } = await this.#read(tag);
      const { machine, image, source, python, refresh, safety } = config;
      const stack = memory.map((blob) => blob.digest);
      return {
        tag,
        digest: manifest.digest,
        draft: null,
        machine,
        image,
        source,
        python,
        refresh,
        safety,
        network: snapshotNetworkOf(machine.network === true, config.network),
        stack,
        deviceState,
        rootDisk,
        disk: disk.map((blob) => blob.digest),
      };
    }
    const { facts, ram } = draft;
    if (ram === null || facts.machine === null || facts.image === null) throw notYet(draft);
    const { machine, image, source, python, refresh, safety, network } = facts;
    return { tag, digest: null, draft, machine, image, source, python, refresh, safety, network, ...ram };
  }

  /** Waits, for a bounded time, until a snapshot that is ready is on disk or has failed. Any other snapshot is left alone. */
  async settled(tag: string): Promise<void> {
    const draft = this.#drafts.get(tag);
    if (draft?.state === 'ready') await settledWithin(limits.durableWaitMs, draft.whenDurable);
  }

  draft(tag: string): Draft | undefined {
    return this.#drafts.get(tag);
  }

  /** Removes a draft that failed. Returns whether there was one. */
  dropFailed(tag: string): boolean {
    if (this.#drafts.get(tag)?.state !== 'failed') return false;
    return this.#drafts.delete(tag);
  }

  /** The snapshots that descend from `tag` directly and keep it, those being written among them. */
  async dependents(tag: string): Promise<string[]> {
    const drafts = [...this.#drafts.values()].filter(
      ({ inFlight, facts }) => inFlight && facts.keepsParent && facts.parent?.tag === tag,
    );
    // A snapshot that becomes durable meanwhile is in both lists.
    return [...new Set([...dependentsOf(tag, await this.stored()), ...drafts.map((draft) => draft.tag)])];
  }

  /** The snapshots in the store that can be read. */
  async stored(): Promise<StoredSnapshot[]> {
    return (await this.#parts.store.list()).flatMap((entry) => ('snapshot' in entry ? [entry.snapshot] : []));
  }

  async #read(tag: string): Promise<StoredSnapshot> {
    try {
      return await this.#parts.store.readSnapshot(tag);
    } catch (error) {
      throw toApiError(error);
    }
  }
}

function configOf(facts: DraftFacts, stats: Record<string, number>): SnapshotConfig {
  const { tag, createdAtUnix, machine, image, source, python, refresh, safety, parent, keepsParent, branchedFrom } =
    facts;
  const { build, network } = facts;
  if (machine === null || image === null) throw new Error(`snapshot '${tag}' has no machine`);
  return {
    format: 1,
    tag,
    created_at_unix: createdAtUnix,
    machine,
    image,
    source,
    python,
    refresh,
    safety,
    parent_tag: parent?.tag ?? null,
    parent_digest: parent?.digest ?? null,
    keeps_parent: keepsParent,
    branched_from: branchedFrom,
    ...(build !== undefined && { build }),
    ...(network !== null && { network }),
    stats,
  };
}

function subjectOf({ tag, facts }: Draft): Subject {
  return { snapshot: tag, ...(facts.branchedFrom !== null && { sandbox: facts.branchedFrom }) };
}

/** The reason why a draft cannot be described in detail or forked. */
function notYet(draft: Draft): ApiError {
  const { tag, state, error } = draft;
  if (state === 'failed') {
    return new ApiError('not_forkable', `Snapshot '${tag}' failed and holds nothing: ${messageOf(error)}`, {
      hint: `Remove it with 'forkd rmi ${tag}'.`,
    });
  }
  const missing = state === 'writing' ? 'its memory is still being captured' : 'its manifest is not on disk yet';
  return new ApiError('not_forkable', `Snapshot '${tag}' is not there yet: ${missing}.`);
}

export function assertTag(tag: string): void {
  if (!isTag(tag)) throw new ApiError('bad_tag', `${JSON.stringify(tag.slice(0, 80))} is not a tag.`);
}

export function notFound(tag: string): ApiError {
  return new ApiError('not_found_snapshot', `There is no snapshot '${tag}'.`);
}

function tagExists(tag: string): ApiError {
  return new ApiError('tag_exists', `There is a snapshot '${tag}' already.`);
}
