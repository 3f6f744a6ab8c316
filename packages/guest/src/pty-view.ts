import { badFrame, framesOf, type RawFrame } from './framed-reply.ts';
import { bytesOf, chunkOf, type CommandExit, exitOf, kinds } from './output.ts';

/**
 * Bytes for the terminal of a viewer. `output` begins at `offset`. The parts of one `screen` have the same offset: they draw what
 * the output up to there has left on the screen, and the output continues from there.
 */
export interface PtyEvent {
  type: 'output' | 'screen';
  offset: number;
  data: Uint8Array;
}

/** The bytes for a viewer of a terminal, as they come. They can be read once. `exit` is set when the loop has ended by itself. */
export class PtyView implements AsyncIterable<PtyEvent[]> {
  exit: CommandExit | undefined;
  readonly #chunks: AsyncIterable<Uint8Array>;
  /** The offset at which output has to continue. Undefined before a viewer that names none has got the screen. */
  #position: number | undefined;

  constructor(chunks: AsyncIterable<Uint8Array>, offset: number | undefined) {
    this.#chunks = chunks;
    this.#position = offset;
  }

  /** The events in the groups in which they come. */
  async *[Symbol.asyncIterator](): AsyncGenerator<PtyEvent[]> {
    for await (const frames of framesOf(this.#chunks)) {
      const events = joined(frames.flatMap((frame) => this.#eventOf(frame)));
      if (events.length > 0) yield events;
    }
  }

  /** Output continues where it was, and a screen only skips ahead. Nothing comes after the exit. */
  #eventOf(frame: RawFrame): PtyEvent | [] {
    if (this.exit !== undefined) throw badFrame(frame);
    if (frame.kind === kinds.exit) {
      this.exit = exitOf(frame);
      return [];
    }
    const isScreen = frame.kind === kinds.screen;
    const { offset, data } = isScreen ? bytesOf(frame) : chunkOf(frame);
    const next = isScreen ? offset : offset + data.length;
    const fits = isScreen ? offset >= (this.#position ?? 0) : offset === this.#position;
    if (!fits || !Number.isSafeInteger(next)) throw badFrame(frame);
    this.#position = next;
    return { type: isScreen ? 'screen' : 'output', offset, data };
  }
}

/** Puts events together that continue the one before them, so that one byte at a time is not passed on so. */
function joined(events: readonly PtyEvent[]): PtyEvent[] {
  const runs: PtyEvent[][] = [];
  for (const event of events) {
    const run = runs.at(-1);
    const goesOn = run?.[0]?.type === event.type && (event.type === 'output' || run[0].offset === event.offset);
    if (run !== undefined && goesOn) run.push(event);
    else runs.push([event]);
  }
  return runs.map(([first, ...rest]) =>
    rest.length === 0 ? first! : { ...first!, data: Buffer.concat([first!, ...rest].map(({ data }) => data)) },
  );
}
