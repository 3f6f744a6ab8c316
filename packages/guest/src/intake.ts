import { intake as bounds } from './limits.ts';

/**
 * How much of what a guest sends is read. In one turn of the event loop and in one second only so much, so that other guests and callers
 * have theirs; and a guest may send only so much that nobody has asked for.
 */
export class Intake {
  readonly #now: () => number;
  #lookedMs: number;
  #turnBytes = 0;
  /** How many bytes may be read at once. Below zero the guest has to wait. */
  #creditBytes: number = bounds.burstBytes;
  /** Bytes that arrived, minus the bytes that were asked for. */
  #unaskedBytes = 0;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#lookedMs = now();
  }

  /** Whether the guest has sent too much that nobody asked for. */
  get isFlooded(): boolean {
    return this.#unaskedBytes > bounds.unaskedBytesMax;
  }

  /** Counts bytes that have come. @returns for how many ms nothing more is to be read; undefined: read on. */
  take(bytes: number, isCrowded = false): number | undefined {
    const nowMs = this.#now();
    const passedSecs = (nowMs - this.#lookedMs) / 1000;
    this.#lookedMs = nowMs;
    this.#creditBytes = Math.min(this.#creditBytes + passedSecs * bounds.bytesPerSec, bounds.burstBytes) - bytes;
    this.#unaskedBytes = Math.max(0, this.#unaskedBytes - passedSecs * bounds.unaskedBytesPerSec) + bytes;
    this.#turnBytes += bytes;
    if (this.#turnBytes < (isCrowded ? bounds.crowdedTurnBytes : bounds.turnBytes)) return undefined;
    this.#turnBytes = 0;
    return Math.max(0, Math.ceil((-this.#creditBytes / bounds.bytesPerSec) * 1000));
  }

  /** Counts bytes that a caller has asked for. What they were wrapped in may be as long again. */
  asked(bytes: number): void {
    this.#unaskedBytes = Math.max(0, this.#unaskedBytes - 2 * bytes);
  }
}
