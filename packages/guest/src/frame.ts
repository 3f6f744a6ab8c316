import { crc32 } from 'node:zlib';
import { cobsDecode, cobsEncode, cobsLengthMax } from './cobs.ts';
import { FRAME_PAYLOAD_BYTES_MAX } from './limits.ts';

/** Frames of the channel: `COBS(kind u8, connection u32 LE, payload, crc32 u32 LE) 0x00`. See `channel/frame.rs`. */
export const frameKind = { open: 1, openAck: 2, data: 3, close: 4 } as const;
export type FrameKind = (typeof frameKind)[keyof typeof frameKind];

export interface Frame {
  kind: FrameKind;
  /** Id of the connection: a random number of 32 bits. */
  connection: number;
  payload: Uint8Array;
}

const HEADER_BYTES = 5;
const TRAILER_BYTES = 4;
const encodedBytesMax = cobsLengthMax(HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX + TRAILER_BYTES);
const kinds: readonly number[] = Object.values(frameKind);

/** The bytes of one frame, its delimiter included. `parts` are the payload, in pieces. */
export function encodeFrame(kind: FrameKind, connection: number, ...parts: Uint8Array[]): Buffer {
  const payloadBytes = parts.reduce((sum, part) => sum + part.length, 0);
  if (payloadBytes > FRAME_PAYLOAD_BYTES_MAX)
    throw new RangeError(`a payload is at most ${FRAME_PAYLOAD_BYTES_MAX} bytes`);
  const raw = Buffer.allocUnsafe(HEADER_BYTES + payloadBytes + TRAILER_BYTES);
  raw[0] = kind;
  raw.writeUInt32LE(connection, 1);
  let at = HEADER_BYTES;
  for (const part of parts) {
    raw.set(part, at);
    at += part.length;
  }
  raw.writeUInt32LE(crc32(raw.subarray(0, at)), at);
  const out = Buffer.allocUnsafe(cobsLengthMax(raw.length) + 1);
  const end = cobsEncode(raw, out, 0);
  out[end] = 0;
  return out.subarray(0, end + 1);
}

/** Finds frames in a stream of bytes. What is no frame is dropped, up to the next delimiter. */
export class FrameDecoder {
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  /** The bytes since the last delimiter are too many for a frame: nothing is kept until the next one. */
  #overlong = false;

  /** Takes bytes in, and gives the frames that they complete. */
  *push(bytes: Uint8Array): Generator<Frame> {
    let from = 0;
    for (;;) {
      const delimiter = bytes.indexOf(0, from);
      if (delimiter < 0) {
        // The chunk may be the socket's to reuse: what waits is a copy.
        this.#keep(bytes.slice(from));
        return;
      }
      this.#keep(bytes.subarray(from, delimiter));
      from = delimiter + 1;
      const frame = this.#finish();
      if (frame) yield frame;
    }
  }

  #keep(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#pendingBytes += bytes.length;
    this.#overlong ||= this.#pendingBytes > encodedBytesMax;
    if (this.#overlong) this.#pending = [];
    else this.#pending.push(bytes);
  }

  #finish(): Frame | undefined {
    const pending = this.#pending;
    const usable = !this.#overlong && pending.length > 0;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#overlong = false;
    if (!usable) return undefined;
    const raw = cobsDecode(pending.length === 1 ? pending[0]! : Buffer.concat(pending));
    return raw && parse(raw);
  }
}

function parse(raw: Uint8Array): Frame | undefined {
  const end = raw.length - TRAILER_BYTES;
  if (end < HEADER_BYTES || end > HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX) return undefined;
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  if (crc32(raw.subarray(0, end)) !== view.getUint32(end, true)) return undefined;
  const kind = raw[0]!;
  if (!kinds.includes(kind)) return undefined;
  return { kind: kind as FrameKind, connection: view.getUint32(1, true), payload: raw.subarray(HEADER_BYTES, end) };
}
