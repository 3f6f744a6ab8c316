import { GuestError, disconnected } from './errors.ts';
import { outputFrameBytesMax } from './limits.ts';

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

const kinds = { started: 0, stdout: 1, stderr: 2, exit: 3, gap: 4 } as const;
const headerBytes = 5;
const offsetBytes = 8;

/**
 * A command's output as it comes: `for await (const event of output)`. It can be read once. While it is not read the command is held up when its
 * ring is full. Leaving the loop lets go of the command, which goes on; `exit` is there when the loop has ended by itself.
 */
export class CommandOutput implements AsyncIterable<OutputEvent> {
  readonly id: string;
  /** Absent where the program could not be started, and on `attach`. */
  readonly pid: number | undefined;
  exit: CommandExit | undefined;
  readonly #frames: AsyncGenerator<RawFrame>;

  private constructor(frames: AsyncGenerator<RawFrame>, id: string, pid: number | undefined) {
    this.#frames = frames;
    this.id = id;
    this.pid = pid;
  }

  /** The output of a command just started: its first frame says which it is. */
  static async started(chunks: AsyncIterable<Uint8Array>): Promise<CommandOutput> {
    const frames = framesOf(chunks);
    const first = await frames.next();
    if (first.done || first.value.kind !== kinds.started) throw disconnected();
    const { id, pid } = jsonOf(first.value) as { id: string; pid: number | null };
    return new CommandOutput(frames, id, pid ?? undefined);
  }

  static attached(chunks: AsyncIterable<Uint8Array>, id: string): CommandOutput {
    return new CommandOutput(framesOf(chunks), id, undefined);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<OutputEvent> {
    for await (const frame of this.#frames) {
      if (frame.kind === kinds.exit) this.exit = exitOf(frame);
      else yield eventOf(frame);
    }
  }

  /** Reads what is left of the output, without keeping it, up to the command's end. */
  async wait(): Promise<CommandExit> {
    for await (const _ of this);
    if (!this.exit) throw disconnected();
    return this.exit;
  }

  /** Lets go of the command, which goes on. */
  async detach(): Promise<void> {
    await this.#frames.return(undefined);
  }
}

interface RawFrame {
  kind: number;
  payload: Uint8Array;
}

async function* framesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<RawFrame> {
  let buffer: Buffer = Buffer.alloc(0);
  for await (const chunk of chunks) {
    buffer =
      buffer.length === 0 ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length) : Buffer.concat([buffer, chunk]);
    let from = 0;
    while (buffer.length - from >= headerBytes) {
      const length = buffer.readUInt32LE(from + 1);
      if (length > outputFrameBytesMax) throw new GuestError('bad_response', `an output frame of ${length} bytes`);
      if (buffer.length - from < headerBytes + length) break;
      const start = from + headerBytes;
      yield { kind: buffer[from]!, payload: buffer.subarray(start, start + length) };
      from = start + length;
    }
    buffer = buffer.subarray(from);
  }
  if (buffer.length > 0) throw disconnected(new Error('the output ended inside a frame'));
}

function jsonOf(frame: RawFrame): unknown {
  try {
    return JSON.parse(Buffer.from(frame.payload).toString('utf8')) as unknown;
  } catch (cause) {
    throw new GuestError('bad_response', 'an output frame is no JSON', { cause });
  }
}

function eventOf(frame: RawFrame): OutputEvent {
  const { kind, payload } = frame;
  if (kind === kinds.gap) return { stream: 'gap', ...(jsonOf(frame) as { from: number; to: number }) };
  if ((kind !== kinds.stdout && kind !== kinds.stderr) || payload.length < offsetBytes) {
    throw new GuestError('bad_response', `an output frame of kind ${kind}`);
  }
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  return {
    stream: kind === kinds.stdout ? 'stdout' : 'stderr',
    offset: Number(view.getBigUint64(0, true)),
    data: payload.subarray(offsetBytes),
  };
}

function exitOf(frame: RawFrame): CommandExit {
  const exit = jsonOf(frame) as { exit_code: number; signal: string | null; timed_out: boolean; error_code?: string };
  return {
    exitCode: exit.exit_code,
    signal: exit.signal ?? undefined,
    timedOut: exit.timed_out,
    errorCode: exit.error_code,
  };
}
