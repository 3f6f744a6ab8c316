import { ApiError } from '@forkd/api';
import type { Budget } from '@forkd/guest';
import { raceAbort, withDeadline } from '../deadline.ts';
import { type Deferred, deferred } from '../deferred.ts';

export interface PoolBounds {
  /** The bound of all shares together. */
  bytesMax: number;
  /** The size of one share. */
  shareBytes: number;
  /** The bytes that each share has without waiting. */
  freeBytes: number;
  waitMs: number;
}

/**
 * Memory for answers of guests, shared by all calls that collect at the same time. A small answer takes none of it. A large
 * one takes its whole share at once, so that no two calls wait for each other, and waits for its turn if there is no room.
 */
export class BytePool {
  readonly #bounds: PoolBounds;
  readonly #waiting: Deferred<void>[] = [];
  #usedBytes = 0;

  constructor(bounds: PoolBounds) {
    this.#bounds = bounds;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  share(signal: AbortSignal): Share {
    return new Share(this, this.#bounds, signal);
  }

  /** Takes a share. @throws ApiError `output_budget` when there is no room within the time for it. */
  async take(signal: AbortSignal): Promise<void> {
    const turn = deferred<void>();
    this.#waiting.push(turn);
    this.give(0);
    const late = (): Error =>
      new ApiError('output_budget', `The memory for output of ${this.#bounds.bytesMax} bytes is taken by other calls.`);
    try {
      await withDeadline(this.#bounds.waitMs, signal, late, (either) => raceAbort(turn.promise, either));
    } catch (error) {
      const at = this.#waiting.indexOf(turn);
      // The share may have been granted at the same moment.
      if (at < 0) this.give(this.#bounds.shareBytes);
      else this.#waiting.splice(at, 1);
      throw error;
    }
  }

  /** Frees memory, and admits the calls that now fit. */
  give(bytes: number): void {
    this.#usedBytes -= bytes;
    const { shareBytes, bytesMax } = this.#bounds;
    while (this.#waiting.length > 0 && this.#usedBytes + shareBytes <= bytesMax) {
      this.#usedBytes += shareBytes;
      this.#waiting.shift()?.resolve();
    }
  }
}

/** The part of the pool that a call holds until it releases it. */
export class Share implements Budget {
  readonly #pool: BytePool;
  readonly #bounds: PoolBounds;
  readonly #signal: AbortSignal;
  #heldBytes = 0;
  #taking: Promise<void> | undefined;
  #isReleased = false;

  constructor(pool: BytePool, bounds: PoolBounds, signal: AbortSignal) {
    this.#pool = pool;
    this.#bounds = bounds;
    this.#signal = signal;
  }

  async hold(bytes: number): Promise<void> {
    if (bytes <= this.#bounds.freeBytes) return;
    this.#taking ??= this.#take();
    await this.#taking;
  }

  /** Frees what is over `bytes`: no more will be collected. */
  keep(bytes: number): void {
    const overBytes = this.#heldBytes - bytes;
    if (overBytes <= 0) return;
    this.#heldBytes = bytes;
    this.#pool.give(overBytes);
  }

  release(): void {
    this.#isReleased = true;
    this.keep(0);
  }

  async #take(): Promise<void> {
    await this.#pool.take(this.#signal);
    this.#heldBytes = this.#bounds.shareBytes;
    if (this.#isReleased) this.keep(0);
  }
}
