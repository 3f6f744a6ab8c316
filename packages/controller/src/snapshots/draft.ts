import type { SnapshotStatus } from '@forkd/api';
import type { Machine } from '@forkd/engine';
import type { Blob, Digest, ImageRecord, StoredSnapshot } from '@forkd/store';

import { deferred } from '../deferred.ts';
import type { Transitions } from '../transitions.ts';
import { assertTransition } from '../transitions.ts';

/** writing: nothing can be started from it. ready: it can, from RAM. durable: on disk, and the store's alone. */
export type DraftState = 'writing' | 'ready' | 'durable' | 'failed';

export const draftTransitions: Transitions<DraftState> = {
  writing: ['ready', 'durable', 'failed'],
  ready: ['durable', 'failed'],
  durable: [],
  failed: [],
};

/** Where a snapshot comes from: a tag, and the digest of the manifest once it is on disk. */
export interface Origin {
  tag: string;
  digest: Digest | null;
}

/** What is known of a snapshot before it is on disk. */
export interface DraftFacts {
  tag: string;
  createdAtUnix: number;
  machine: Machine | null;
  image: ImageRecord | null;
  source: string;
  python: boolean;
  parent: Origin | null;
  branchedFrom: string | null;
}

/** What a child needs to start from a snapshot that is in RAM only. */
export interface RamSnapshot {
  stack: readonly string[];
  deviceState: Blob;
  rootDisk: Blob;
}

/**
 * A snapshot that is not on disk yet, or never will be. Its life: `writing`; then `ready`, once the pager holds all of
 * its memory; then `durable`, when the store has it and this object has had its day. From either, `failed`.
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
    // A failure that nobody waits for is in `error`, and in the list.
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

  /** Work on it goes on: it cannot be removed. */
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

  /** Settles when it can be forked from; rejects with the reason when it failed. */
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
