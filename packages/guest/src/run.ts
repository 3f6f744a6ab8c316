import { disconnected } from './errors.ts';
import { COLLECTED_BYTES_MAX_DEFAULT, COLLECTED_BYTES_MIN } from './limits.ts';
import type { CommandOutput } from './output.ts';
import type { RunOptions, RunResult } from './types.ts';

/** The first bytes of one stream, in one buffer that grows up to its bound. */
class Kept {
  readonly #bytesMax: number;
  #buffer = Buffer.alloc(0);
  #length = 0;
  droppedBytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** How large the buffer has to be for so many bytes more. */
  sizeFor(bytes: number): number {
    const needed = Math.min(this.#length + bytes, this.#bytesMax);
    if (needed <= this.#buffer.length) return this.#buffer.length;
    return Math.min(Math.max(needed, this.#buffer.length * 2, COLLECTED_BYTES_MIN), this.#bytesMax);
  }

  add(data: Uint8Array): void {
    const size = this.sizeFor(data.length);
    if (size > this.#buffer.length) {
      const larger = Buffer.allocUnsafeSlow(size);
      larger.set(this.#buffer.subarray(0, this.#length));
      this.#buffer = larger;
    }
    const kept = data.subarray(0, this.#buffer.length - this.#length);
    this.#buffer.set(kept, this.#length);
    this.#length += kept.length;
    this.droppedBytes += data.length - kept.length;
  }

  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }
}

/** Reads a command's output to its end. A failure of `feeding` its input ends the wait. */
export async function collect(
  output: CommandOutput,
  options: Pick<RunOptions, 'keepBytesMax' | 'budget' | 'onOutput'>,
  feeding: Promise<void> | undefined,
): Promise<RunResult> {
  const { keepBytesMax = COLLECTED_BYTES_MAX_DEFAULT, budget, onOutput } = options;
  const kept = { stdout: new Kept(keepBytesMax), stderr: new Kept(keepBytesMax) };
  let heldBytes = 0;
  let lostBytes = 0;
  const reading = (async (): Promise<void> => {
    for await (const batch of output.batches()) {
      for (const event of batch) {
        if (event.stream === 'gap') {
          lostBytes += event.to - event.from;
          continue;
        }
        onOutput?.(event.data);
        const other = kept[event.stream === 'stdout' ? 'stderr' : 'stdout'];
        const size = kept[event.stream].sizeFor(event.data.length) + other.sizeFor(0);
        if (size > heldBytes) await budget?.hold(size);
        heldBytes = size;
        kept[event.stream].add(event.data);
      }
    }
  })();
  await Promise.all([reading, feeding]);
  if (!output.exit) throw disconnected();
  const { stdout, stderr } = kept;
  return {
    ...output.exit,
    id: output.id,
    stdout: stdout.bytes(),
    stderr: stderr.bytes(),
    truncated: stdout.droppedBytes + stderr.droppedBytes + lostBytes > 0,
    stdoutDroppedBytes: stdout.droppedBytes,
    stderrDroppedBytes: stderr.droppedBytes,
    lostBytes,
  };
}
