import { limits } from '@forkd/api/constants';
import { concatBytes, textOf } from './bytes.ts';

/** Keeps the beginning of a stream of output, up to a limit, and counts the bytes beyond the limit. */
export class CollectedOutput {
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;
  /** The number of bytes beyond the limit, which are not kept. */
  droppedBytes = 0;

  add(chunk: Uint8Array): void {
    const kept = chunk.subarray(0, limits.collectedOutputBytesMax - this.#bytes);
    this.droppedBytes += chunk.length - kept.length;
    this.#bytes += kept.length;
    if (kept.length > 0) this.#chunks.push(kept);
  }

  text(): string {
    return textOf(concatBytes(this.#chunks));
  }
}
