import { disconnected } from './errors.ts';
import { badFrame, framesOf, jsonOf, type RawFrame } from './framed-reply.ts';
import { OUTPUT_EVENTS_PER_TURN, OUTPUT_PIECE_BYTES_MIN } from './limits.ts';
import { turns } from './turns.ts';
import { replies } from './wire.ts';

/** Bytes of a command's output. `offset` counts the bytes of both streams, in the order in which the agent read them. */
export interface OutputChunk {
  stream: 'stdout' | 'stderr';
  offset: number;
  data: Uint8Array;
}

/** Output that was dropped from the command's ring before anybody asked for it. */
export interface OutputGap {
  stream: 'gap';
  from: number;
  to: number;
}

export type OutputEvent = OutputChunk | OutputGap;

export interface CommandExit {
  /** 128 + the signal where one ended it; 127 and 126 where the program was not found or not executable. */
  exitCode: number;
  /** Name without SIG. */
  signal: string | undefined;
  timedOut: boolean;
  /** Why it never ran: `command_not_found` or `permission_denied`. */
  errorCode: string | undefined;
}

export const kinds = { started: 0, stdout: 1, stderr: 2, exit: 3, gap: 4, screen: 5 } as const;
const OFFSET_BYTES = 8;

/**
 * The output of a command as it arrives: `for await (const event of output)`. It can be read once. While nothing reads it, a
 * full ring holds the command up. Leaving the loop detaches from the command, which continues. `exit` is set when the loop has
 * ended by itself.
 */
export class CommandOutput implements AsyncIterable<OutputEvent> {
  readonly id: string;
  /** Absent where the program could not be started, and on `attach`. */
  readonly pid: number | undefined;
  exit: CommandExit | undefined;
  readonly #frames: AsyncGenerator<RawFrame[]>;
  /** Frames that came together with the first one. */
  #early: RawFrame[];
  /** The offset at which the next event has to begin; undefined if the guest may choose it. */
  #position: number | undefined;

  private constructor(frames: AsyncGenerator<RawFrame[]>, early: RawFrame[], started: Started) {
    this.#frames = frames;
    this.#early = early;
    this.id = started.id;
    this.pid = started.pid;
    this.#position = started.position;
  }

  /** The output of a command just started: its first frame says which it is. */
  static async started(chunks: AsyncIterable<Uint8Array>): Promise<CommandOutput> {
    const frames = framesOf(chunks);
    try {
      for (;;) {
        const next = await frames.next();
        if (next.done) throw disconnected();
        const [first, ...early] = next.value;
        if (first === undefined) continue;
        if (first.kind !== kinds.started) throw badFrame(first);
        const { id, pid } = jsonOf(first, replies.started);
        return new CommandOutput(frames, early, { id, pid: pid ?? undefined, position: 0 });
      }
    } catch (error) {
      await frames.return(undefined);
      throw error;
    }
  }

  static attached(chunks: AsyncIterable<Uint8Array>, id: string): CommandOutput {
    return new CommandOutput(framesOf(chunks), [], { id, pid: undefined, position: undefined });
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<OutputEvent> {
    let count = 0;
    for await (const batch of this.batches()) {
      for (const event of batch) {
        yield event;
        count += 1;
        if (count % OUTPUT_EVENTS_PER_TURN === 0) await turns.next();
      }
    }
  }

  /** The events in the groups in which they have come, short ones put together. */
  async *batches(): AsyncGenerator<OutputEvent[]> {
    yield joined(this.#early.flatMap((frame) => this.#eventOf(frame)));
    this.#early = [];
    for await (const frames of this.#frames) yield joined(frames.flatMap((frame) => this.#eventOf(frame)));
  }

  /** Reads what is left of the output, without keeping it, up to the command's end. */
  async wait(): Promise<CommandExit> {
    for await (const _ of this.batches());
    if (!this.exit) throw disconnected();
    return this.exit;
  }

  /** Detaches from the command, which continues. */
  async detach(): Promise<void> {
    await this.#frames.return(undefined);
  }

  /** Each event begins where the one before it ended: there is no hole that no gap tells of. Nothing comes after the exit. */
  #eventOf(frame: RawFrame): OutputEvent | [] {
    if (this.exit !== undefined) throw badFrame(frame);
    if (frame.kind === kinds.exit) {
      this.exit = exitOf(frame);
      return [];
    }
    const event = frame.kind === kinds.gap ? gapOf(frame) : chunkOf(frame);
    const from = event.stream === 'gap' ? event.from : event.offset;
    const to = event.stream === 'gap' ? event.to : from + event.data.length;
    if ((this.#position ?? from) !== from || to <= from || !Number.isSafeInteger(to)) throw badFrame(frame);
    this.#position = to;
    return event;
  }
}

interface Started {
  id: string;
  pid: number | undefined;
  position: number | undefined;
}

/** Puts events together that follow each other and are short; gaps always. */
function joined(events: OutputEvent[]): OutputEvent[] {
  const out: OutputEvent[] = [];
  let run: OutputChunk[] = [];
  const flush = (): void => {
    const [first] = run;
    if (first === undefined) return;
    out.push(run.length === 1 ? first : { ...first, data: Buffer.concat(run.map(({ data }) => data)) });
    run = [];
  };
  for (const event of events) {
    if (event.stream === 'gap') {
      flush();
      const last = out.at(-1);
      if (last?.stream === 'gap') last.to = event.to;
      else out.push(event);
      continue;
    }
    const isShort = event.data.length < OUTPUT_PIECE_BYTES_MIN;
    if (!isShort || run[0]?.stream !== event.stream) flush();
    run.push(event);
    if (!isShort) flush();
  }
  flush();
  return out;
}

function gapOf(frame: RawFrame): OutputGap {
  return { stream: 'gap', ...jsonOf(frame, replies.gap) };
}

export function chunkOf(frame: RawFrame): OutputChunk {
  const { kind } = frame;
  if (kind !== kinds.stdout && kind !== kinds.stderr) throw badFrame(frame);
  return { stream: kind === kinds.stdout ? 'stdout' : 'stderr', ...bytesOf(frame) };
}

/** The bytes that a frame carries, and their offset. */
export function bytesOf(frame: RawFrame): { offset: number; data: Uint8Array } {
  const { payload } = frame;
  if (payload.length <= OFFSET_BYTES) throw badFrame(frame);
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  return { offset: Number(view.getBigUint64(0, true)), data: payload.subarray(OFFSET_BYTES) };
}

export function exitOf(frame: RawFrame): CommandExit {
  const exit = jsonOf(frame, replies.exit);
  return {
    exitCode: exit.exit_code,
    signal: exit.signal ?? undefined,
    timedOut: exit.timed_out,
    errorCode: exit.error_code,
  };
}
