/** Replies of the agent that are streams of frames: `kind u8, length u32 LE, payload`. */
import type { Static, TSchema } from 'typebox';
import { disconnected, GuestError } from './errors.ts';
import { FRAME_BYTES_MAX } from './limits.ts';
import type { Reply } from './wire.ts';

const HEADER_BYTES = 5;

/** A frame, before it is known to be one that its route sends. */
export interface RawFrame {
  kind: number;
  payload: Uint8Array;
}

/** The frames that each chunk completes. The one that is not complete yet is the only thing kept. */
export async function* framesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<RawFrame[]> {
  const header = Buffer.alloc(HEADER_BYTES);
  let headerFilled = 0;
  let payload: Buffer | undefined;
  let payloadFilled = 0;
  for await (const chunk of chunks) {
    const frames: RawFrame[] = [];
    let at = 0;
    while (at < chunk.length) {
      if (payload === undefined) {
        const part = chunk.subarray(at, at + HEADER_BYTES - headerFilled);
        header.set(part, headerFilled);
        headerFilled += part.length;
        at += part.length;
        if (headerFilled < HEADER_BYTES) break;
        const length = header.readUInt32LE(1);
        if (length > FRAME_BYTES_MAX)
          throw new GuestError('bad_response', `A frame has ${length} bytes, which is more than allowed.`);
        headerFilled = 0;
        if (chunk.length - at >= length) {
          frames.push({ kind: header[0]!, payload: chunk.subarray(at, at + length) });
          at += length;
          continue;
        }
        payload = Buffer.allocUnsafe(length);
        payloadFilled = 0;
      }
      const part = chunk.subarray(at, at + payload.length - payloadFilled);
      payload.set(part, payloadFilled);
      payloadFilled += part.length;
      at += part.length;
      if (payloadFilled < payload.length) continue;
      frames.push({ kind: header[0]!, payload });
      payload = undefined;
    }
    yield frames;
  }
  if (headerFilled > 0 || payload !== undefined) throw disconnected(new Error('the reply ended inside a frame'));
}

/** The JSON that a frame carries. @throws GuestError `bad_response` */
export function jsonOf<Schema extends TSchema>(frame: RawFrame, reply: Reply<Schema>): Static<Schema> {
  if (frame.payload.length > reply.bytesMax) throw badFrame(frame);
  try {
    return reply.check(JSON.parse(Buffer.from(frame.payload).toString('utf8')));
  } catch (cause) {
    throw badFrame(frame, cause);
  }
}

export function badFrame({ kind, payload }: RawFrame, cause?: unknown): GuestError {
  return new GuestError('bad_response', `A frame of kind ${kind} with ${payload.length} bytes is wrong.`, {
    cause,
  });
}
