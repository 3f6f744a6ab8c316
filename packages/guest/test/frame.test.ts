/**
 * Proves that frames are what the vectors say (the agent is held to the same), and that the decoder finds every good frame whatever
 * garbage stands around it and however the bytes are cut. fast-check prints the seed of a failure.
 */
import { readFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { cobsDecode, cobsEncode, cobsLengthMax } from '../src/cobs.ts';
import { encodeFrame, FrameDecoder, frameKind, type Frame, type FrameKind } from '../src/frame.ts';
import { FRAME_PAYLOAD_BYTES_MAX } from '../src/limits.ts';

interface Vectors {
  frames: {
    name: string;
    kind: number;
    connection: number;
    payload: string;
    repeat: number;
    bytes: string;
    crc32_of_bytes: number;
  }[];
  streams: { name: string; bytes: string; connections: number[] }[];
}

const vectors = JSON.parse(readFileSync(new URL('vectors/frames.json', import.meta.url), 'utf8')) as Vectors;
const delimiter = Uint8Array.of(0);

function decodeAll(chunks: Uint8Array[]): Frame[] {
  const decoder = new FrameDecoder();
  return chunks.flatMap((chunk) => [...decoder.push(chunk)]);
}

function cut(bytes: Uint8Array, length: number): Uint8Array[] {
  const count = Math.ceil(bytes.length / length);
  return Array.from({ length: count }, (_, index) => bytes.subarray(index * length, (index + 1) * length));
}

function bytesOf(frame: Frame): Buffer {
  return encodeFrame(frame.kind, frame.connection, frame.payload);
}

const anyBytes = fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 255 })), { maxLength: 1200, size: 'max' });
const anyFrame = fc.record({
  kind: fc.constantFrom<FrameKind>(...Object.values(frameKind)),
  connection: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  payload: anyBytes.map((bytes) => Uint8Array.from(bytes)),
});

test.each(vectors.frames)('vector: $name', (vector) => {
  const payload = Buffer.concat(Array.from({ length: vector.repeat }, () => Buffer.from(vector.payload, 'hex')));
  const frame: Frame = { kind: vector.kind as FrameKind, connection: vector.connection, payload };
  const bytes = bytesOf(frame);
  if (vector.bytes !== '') expect(bytes.toString('hex')).toBe(vector.bytes);
  expect(crc32(bytes)).toBe(vector.crc32_of_bytes);
  const [decoded, ...more] = decodeAll([bytes]);
  expect(more).toEqual([]);
  expect(decoded && Buffer.from(decoded.payload).equals(payload)).toBe(true);
});

test.each(vectors.streams)('vector: $name', ({ bytes, connections }) => {
  const found = decodeAll([Buffer.from(bytes, 'hex')]).map((frame) => frame.connection);
  expect(found).toEqual(connections);
});

test('COBS decodes what it encoded, and contains no zero', () => {
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const data = Uint8Array.from(bytes);
      const out = new Uint8Array(cobsLengthMax(data.length));
      const encoded = out.subarray(0, cobsEncode(data, out, 0));
      expect(encoded.includes(0)).toBe(false);
      expect(cobsDecode(encoded)).toEqual(data);
    }),
  );
});

test('valid frames are found among garbage, however the bytes are split', () => {
  const items = fc.array(fc.tuple(fc.uint8Array({ maxLength: 300 }), anyFrame), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(items, fc.integer({ min: 1, max: 700 }), (parts, length) => {
      const stream = Buffer.concat(parts.flatMap(([garbage, frame]) => [garbage, delimiter, bytesOf(frame)]));
      const found = decodeAll(cut(stream, length));
      expect(found.map(bytesOf)).toEqual(parts.map(([, frame]) => bytesOf(frame)));
    }),
  );
});

test('a truncated frame costs only itself', () => {
  fc.assert(
    fc.property(anyFrame, anyFrame, fc.nat(), (first, second, at) => {
      const whole = bytesOf(first);
      const partial = whole.subarray(0, at % (whole.length - 1));
      expect(decodeAll([partial, delimiter, bytesOf(second)]).map(bytesOf)).toEqual([bytesOf(second)]);
    }),
  );
});

test('garbage alone is never a frame', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 4000 }), (garbage) => {
      expect(decodeAll([garbage])).toEqual([]);
    }),
  );
});

test('bytes without a delimiter are dropped up to the next frame', () => {
  const frame: Frame = { kind: frameKind.data, connection: 3, payload: new Uint8Array(FRAME_PAYLOAD_BYTES_MAX) };
  const run = new Uint8Array(64 * 1024).fill(7);
  const found = decodeAll([run, run, run, delimiter, bytesOf(frame)]);
  expect(found.map((each) => each.connection)).toEqual([3]);
});

test('a payload over the limit is refused', () => {
  expect(() => encodeFrame(frameKind.data, 1, new Uint8Array(FRAME_PAYLOAD_BYTES_MAX + 1))).toThrow(RangeError);
});
