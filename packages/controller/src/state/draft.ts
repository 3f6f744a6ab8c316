import type { CreateSnapshotRequest, Safety, SnapshotNetwork, SnapshotStatus, Image, Refresh } from '@forkd/api';
import type { Machine } from '@forkd/engine';
import type { Blob, Digest, StoredSnapshot } from '@forkd/store';
import { deferred } from '../deferred.ts';
import { type Transitions, assertTransition } from './transitions.ts';

/** writing: cannot be forked. ready: can be forked from RAM. durable: on disk, and handed over to the store. */
export type DraftState = 'writing' | 'ready' | 'durable' | 'failed';

export const draftTransitions: Transitions<DraftState> = {
  writing: ['ready', 'durable', 'failed'],
  ready: ['durable', 'failed'],
  durable: [],
  failed: [],
};

/** Origin of a snapshot: a tag, and the digest of the manifest once it is on disk. */
export interface Origin {
  tag: string;
  digest: Digest | null;
}

/** The facts of a snapshot before it is on disk. */
export interface DraftFacts {
  tag: string;
  createdAtUnix: number;
  machine: Machine | null;
  image: Image | null;
  source: string;
  python: boolean;
  refresh: Refresh | null;
  safety: Safety;
  /** `null` if the machine has no network device. */
  network: SnapshotNetwork | null;
  parent: Origin | null;
  /** True if the request named the parent, which cannot be removed without this snapshot then. */
  keepsParent: boolean;
  branchedFrom: string | null;
  /** The request that a template is built with, from which it can be built again. */
  build?: CreateSnapshotRequest;
}

/** Everything that a child needs to start from a snapshot that is in RAM only. */
export interface RamSnapshot {
  stack: readonly string[];
  deviceState: Blob;
  rootDisk: Blob;
  /** The layers of the disk. Empty without one. */
  disk: readonly string[];
}

/**
 * A snapshot in the making: `writing`, then `ready` (forkable from RAM), then `durable` (stored; the draft is dropped). Either
 * of the first two can fail.
 */
export class Draft {
  readonly facts: DraftFacts;
  /** Numbers with their unit in the name, as the pager reports them. */
  stats: Record<string, number> = {};
  #state: DraftState = 'writing';
  #ram: RamSnapshot | null = null;
  #error: Error | null = null;
  #stored: StoredSnapshot | null = null;
  readonly #ready = deferred<void>();
  readonly #durable = deferred<StoredSnapshot>();

  constructor(facts: DraftFacts) {
    this.facts = facts;
    // Avoid an unhandled rejection if no caller waits: a failure is in `error`, and in the list.
    this.#ready.promise.catch(() => undefined);
    this.#durable.promise.catch(() => undefined);
  }

  get tag(): string {
    return this.facts.tag;
  }

  get state(): DraftState {
    return this.#state;
  }

  get status(): SnapshotStatus {
    return this.#state === 'durable' ? 'ready' : this.#state;
  }

  /** True while the snapshot is being made: it cannot be removed. */
  get inFlight(): boolean {
    return this.#state === 'writing' || this.#state === 'ready';
  }

  get ram(): RamSnapshot | null {
    return this.#state === 'ready' ? this.#ram : null;
  }

  /** The stack that children were started from while it was `ready`. */
  get ramStack(): readonly string[] {
    return this.#ram?.stack ?? [];
  }

  get error(): Error | null {
    return this.#error;
  }

  get stored(): StoredSnapshot | null {
    return this.#stored;
  }

  /** Resolves when the snapshot can be forked; rejects with the reason when it failed. */
  get whenReady(): Promise<void> {
    return this.#ready.promise;
  }

  get whenDurable(): Promise<StoredSnapshot> {
    return this.#durable.promise;
  }

  becomeReady(ram: RamSnapshot): void {
    this.#enter('ready');
    this.#ram = ram;
    this.#ready.resolve();
  }

  becomeDurable(stored: StoredSnapshot): void {
    this.#enter('durable');
    this.#stored = stored;
    this.#ready.resolve();
    this.#durable.resolve(stored);
  }

  fail(error: Error): void {
    this.#enter('failed');
    this.#ram = null;
    this.#error = error;
    this.#ready.reject(error);
    this.#durable.reject(error);
  }

  #enter(next: DraftState): void {
    assertTransition(draftTransitions, `snapshot '${this.tag}'`, this.#state, next);
    this.#state = next;
  }
}
