import { disconnected } from './errors.ts';
import type { CommandOutput, OutputGap } from './output.ts';
import type { RunResult } from './types.ts';

const keepBytesMaxDefault = 64 * 1024 * 1024;

/** The first bytes of one stream. */
class Kept {
  readonly #parts: Uint8Array[] = [];
  #room: number;
  truncated = false;

  constructor(bytesMax: number) {
    this.#room = bytesMax;
  }

  add(data: Uint8Array): void {
    this.truncated ||= data.length > this.#room;
    const kept = data.subarray(0, this.#room);
    this.#room -= kept.length;
    if (kept.length > 0) this.#parts.push(kept);
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

/** Reads a command's output to its end. A failure of `feeding` its input ends the wait. */
export async function collect(
  output: CommandOutput,
  keepBytesMax = keepBytesMaxDefault,
  feeding: Promise<void> | undefined,
): Promise<RunResult> {
  const kept = { stdout: new Kept(keepBytesMax), stderr: new Kept(keepBytesMax) };
  const gaps: OutputGap[] = [];
  const reading = (async (): Promise<void> => {
    for await (const event of output) {
      if (event.stream === 'gap') gaps.push(event);
      else kept[event.stream].add(event.data);
    }
  })();
  await Promise.all([reading, feeding]);
  if (!output.exit) throw disconnected();
  return {
    ...output.exit,
    id: output.id,
    stdout: kept.stdout.bytes(),
    stderr: kept.stderr.bytes(),
    truncated: kept.stdout.truncated || kept.stderr.truncated,
    gaps,
  };
}
