import { ApiError, isTag } from '@forkd/api';
import type { SnapshotInfo, SnapshotInfoDetail } from '@forkd/api';
import type { Blob, Digest, ImageRecord, MachineRecord, SnapshotDraft, Store, StoredSnapshot } from '@forkd/store';
import { dependentsOf } from '@forkd/store';

import { messageOf, toApiError } from '../errors.ts';
import type { EventLog, Subject } from '../events.ts';
import { detailOf, infoOfDraft, infoOfListed } from './describe.ts';
import type { DraftFacts, RamSnapshot } from './draft.ts';
import { Draft } from './draft.ts';

/** All that is needed to start a child of a snapshot. */
export interface ForkSource {
  tag: string;
  /** Of its manifest; `null` while it is in RAM only. */
  digest: Digest | null;
  /** While it is in RAM only. */
  draft: Draft | null;
  machine: MachineRecord;
  image: ImageRecord;
  source: string;
  python: boolean;
  /** Bottom layer first. */
  stack: readonly string[];
  deviceState: Blob;
  rootDisk: Blob;
}

/** All snapshots by tag: those in the store, and the drafts that are not there yet or failed. */
export class Catalog {
  readonly #store: Store;
  readonly #events: EventLog;
  readonly #drafts = new Map<string, Draft>();

  constructor(store: Store, events: EventLog) {
    this.#store = store;
    this.#events = events;
  }

  get inFlightCount(): number {
    return [...this.#drafts.values()].filter((draft) => draft.inFlight).length;
  }

  /** Takes a tag. From here until it is durable or failed, the draft is in the list and the tag is nobody else's. */
  async claim(facts: DraftFacts): Promise<Draft> {
    const { tag } = facts;
    assertTag(tag);
    const rival = this.#drafts.get(tag);
    if (rival?.inFlight) throw new ApiError('snapshot_in_flight', `A snapshot '${tag}' is being written already.`);
    // One that failed holds nothing: its tag can be taken again.
    const draft = new Draft(facts);
    // Before the store is asked, so that of two claims at once only one can pass.
    this.#drafts.set(tag, draft);
    try {
      if ((await this.#store.list()).some((entry) => entry.tag === tag)) throw tagExists(tag);
      this.#events.emit('snapshot.writing', subjectOf(draft));
      return draft;
    } catch (error) {
      this.#drafts.delete(tag);
      throw error;
    }
  }

  /** Its memory is in the pager's hands: it can be forked from. */
  becomeReady(draft: Draft, ram: RamSnapshot): void {
    draft.becomeReady(ram);
    this.#events.emit('snapshot.ready', subjectOf(draft));
  }

  /** Writes a draft to the store, which makes it durable. */
  async publish(draft: Draft, contents: SnapshotDraft): Promise<StoredSnapshot> {
    const stored = await this.#store.writeSnapshot(contents);
    draft.becomeDurable(stored);
    this.#drafts.delete(draft.tag);
    this.#events.emit('snapshot.durable', subjectOf(draft));
    return stored;
  }

  /** The draft stays in the list with the reason, until somebody removes it. */
  fail(draft: Draft, error: unknown): void {
    const failure = toApiError(error);
    draft.fail(failure);
    this.#events.emit('snapshot.failed', { ...subjectOf(draft), reason: failure.message });
  }

  /** Gives a claimed tag back as if it had never been asked for. */
  discard(draft: Draft, error: unknown): void {
    this.fail(draft, error);
    this.#drafts.delete(draft.tag);
  }

  async list(): Promise<SnapshotInfo[]> {
    // Before the store is asked: one that gets there meanwhile would else be in neither.
    const drafts = new Map(this.#drafts);
    const stored = (await this.#store.list()).filter(({ tag }) => !drafts.has(tag));
    return [
      ...stored.map((entry) => infoOfListed(entry, this.#store.dir)),
      ...[...drafts.values()].map((draft) => infoOfDraft(draft, this.#store.dir)),
    ].toSorted((a, b) => a.created_at_unix - b.created_at_unix || a.tag.localeCompare(b.tag));
  }

  async info(tag: string): Promise<SnapshotInfo> {
    assertTag(tag);
    const found = (await this.list()).find((entry) => entry.tag === tag);
    if (found === undefined) throw notFound(tag);
    return found;
  }

  /** Of a draft as it is at this moment. */
  describe(draft: Draft): SnapshotInfo {
    return infoOfDraft(draft, this.#store.dir);
  }

  async detail(tag: string): Promise<SnapshotInfoDetail> {
    assertTag(tag);
    const draft = this.#drafts.get(tag);
    if (draft !== undefined) throw notYet(draft);
    const snapshot = await this.#read(tag);
    return detailOf(snapshot, this.#store.dir, await this.stored(), await this.dependents(tag));
  }

  /** What a child of it would start from. Throws `not_forkable`, saying what is missing. */
  async forkSource(tag: string): Promise<ForkSource> {
    assertTag(tag);
    const draft = this.#drafts.get(tag);
    if (draft === undefined) {
      const { config, manifest, memory, deviceState, rootDisk } = await this.#read(tag);
      const { machine, image, source, python } = config;
      const stack = memory.map((blob) => blob.digest);
      return {
        tag,
        digest: manifest.digest,
        draft: null,
        machine,
        image,
        source,
        python,
        stack,
        deviceState,
        rootDisk,
      };
    }
    const { facts, ram } = draft;
    if (ram === null || facts.machine === null || facts.image === null) throw notYet(draft);
    const { machine, image, source, python } = facts;
    return { tag, digest: null, draft, machine, image, source, python, ...ram };
  }

  draft(tag: string): Draft | undefined {
    return this.#drafts.get(tag);
  }

  /** Removes a draft that failed. Returns whether there was one. */
  dropFailed(tag: string): boolean {
    if (this.#drafts.get(tag)?.state !== 'failed') return false;
    return this.#drafts.delete(tag);
  }

  /** The snapshots that descend from `tag` directly, those being written among them. */
  async dependents(tag: string): Promise<string[]> {
    const drafts = [...this.#drafts.values()].filter((draft) => draft.inFlight && draft.facts.parent?.tag === tag);
    // One that gets to the store meanwhile is in both.
    return [...new Set([...dependentsOf(tag, await this.stored()), ...drafts.map((draft) => draft.tag)])];
  }

  /** The readable ones. */
  async stored(): Promise<StoredSnapshot[]> {
    return (await this.#store.list()).flatMap((entry) => ('snapshot' in entry ? [entry.snapshot] : []));
  }

  async #read(tag: string): Promise<StoredSnapshot> {
    try {
      return await this.#store.readSnapshot(tag);
    } catch (error) {
      throw toApiError(error);
    }
  }
}

function subjectOf({ tag, facts }: Draft): Subject {
  return { snapshot: tag, ...(facts.branchedFrom !== null && { sandbox: facts.branchedFrom }) };
}

/** `detail` and forks want a snapshot that is there: this says why one is not. */
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
