/**
 * Sparse files of GNU tar: an archive has their data without the holes, and a map of where it belongs. The map is in the header
 * (`S`, from before POSIX), in pax records (formats 0.0 and 0.1) or before the data (format 1.0).
 */
import { BLOCK_BYTES, TarError, number, type ByteReader } from './tar-bytes.ts';

/** Data that is together in a file. */
interface Piece {
  readonly offset: number;
  readonly length: number;
}

/** A sparse file. `pieces` are in order, and lie within its size. */
export interface Sparse {
  readonly size: number;
  readonly pieces: readonly Piece[];
  /** Bytes of its map that have been read from its stored content. */
  readonly mapBytes: number;
}

type Records = ReadonlyMap<string, string>;

const PREFIX = 'GNU.sparse.';
const PIECES_MAX = 100_000;
const HEADER_MAP = { at: 386, pieces: 4, extendedAt: 482, sizeAt: 483 };
const BLOCK_MAP = { at: 0, pieces: 21, extendedAt: 504 };
const FIELD_BYTES = 12;
const DIGITS_MAX = 20;
const NEWLINE = 0x0a;
const ZEROS = Buffer.alloc(64 * 1024);

/** The name of a sparse file. The header of formats 0.1 and 1.0 has another in its place. */
export function sparseName(records: Records): string | undefined {
  return records.get(`${PREFIX}name`);
}

/** Collects the records of format 0.0, which repeats them for each piece, as the one of format 0.1. */
export function addRecord(records: Map<string, string>, key: string, value: string): void {
  if (key !== `${PREFIX}offset` && key !== `${PREFIX}numbytes`) {
    records.set(key, value);
    return;
  }
  const before = records.get(`${PREFIX}map`);
  records.set(`${PREFIX}map`, before === undefined ? value : `${before},${value}`);
}

class DamagedMap extends Error {
  override readonly name = 'DamagedMap';
}

/** Reads the map of a file that is stored in `storedBytes`. Null for a file that is not sparse. `shown` is its name. */
export async function readSparse(
  bytes: ByteReader,
  header: Buffer,
  records: Records,
  storedBytes: number,
  shown: string,
): Promise<Sparse | null> {
  try {
    return await readMap(bytes, header, records, storedBytes);
  } catch (error) {
    throw error instanceof DamagedMap ? new TarError(`The map of the sparse file '${shown}' is damaged.`) : error;
  }
}

async function readMap(
  bytes: ByteReader,
  header: Buffer,
  records: Records,
  storedBytes: number,
): Promise<Sparse | null> {
  const isOld = header[156] === 'S'.charCodeAt(0);
  if (!isOld && ![...records.keys()].some((key) => key.startsWith(PREFIX))) return null;
  const size = isOld
    ? number(header, HEADER_MAP.sizeAt, FIELD_BYTES)
    : whole(records.get(`${PREFIX}realsize`) ?? records.get(`${PREFIX}size`) ?? '');
  const map = records.get(`${PREFIX}map`);
  const isBefore = !isOld && map === undefined && records.get(`${PREFIX}major`) === '1';
  const { numbers, mapBytes } = isBefore
    ? await readMapBefore(bytes, storedBytes)
    : { numbers: isOld ? await readHeaderMap(bytes, header) : numbersIn(map ?? ''), mapBytes: 0 };
  const pieces = piecesOf(numbers, size);
  const dataBytes = pieces.reduce((sum, { length }) => sum + length, 0);
  if (dataBytes !== storedBytes - mapBytes) throw new DamagedMap();
  return { size, pieces, mapBytes };
}

/** The content of a file, from its data. */
export async function* filled(data: AsyncIterable<Buffer>, { size, pieces }: Sparse): AsyncGenerator<Buffer> {
  let at = 0;
  let piece = 0;
  for await (const chunk of data) {
    for (let rest = chunk; rest.length > 0; piece += 1) {
      const { offset, length } = pieces[piece]!;
      yield* zeros(offset - at);
      at = Math.max(at, offset);
      const part = rest.subarray(0, offset + length - at);
      yield part;
      at += part.length;
      rest = rest.subarray(part.length);
      if (at < offset + length) break;
    }
  }
  yield* zeros(size - at);
}

function* zeros(count: number): Generator<Buffer> {
  for (let left = count; left > 0; left -= ZEROS.length) yield ZEROS.subarray(0, left);
}

/** `offset 12, length 12` for each piece, in the header and in blocks that follow it. */
async function readHeaderMap(bytes: ByteReader, header: Buffer): Promise<number[]> {
  const numbers: number[] = [];
  let block = header;
  for (let layout: typeof BLOCK_MAP = HEADER_MAP; ; layout = BLOCK_MAP) {
    for (let index = 0; index < layout.pieces; index += 1) {
      const at = layout.at + index * 2 * FIELD_BYTES;
      if (block[at + FIELD_BYTES] === 0) return numbers;
      numbers.push(number(block, at, FIELD_BYTES), number(block, at + FIELD_BYTES, FIELD_BYTES));
    }
    if (block[layout.extendedAt] === 0) return numbers;
    if (numbers.length > 2 * PIECES_MAX) throw new DamagedMap();
    block = await bytes.must(BLOCK_BYTES);
  }
}

function numbersIn(map: string): number[] {
  return map === '' ? [] : map.split(',').map(whole);
}

/** A number on a line each, in whole blocks: how many pieces, then offset and length of each. */
async function readMapBefore(bytes: ByteReader, bytesMax: number): Promise<{ numbers: number[]; mapBytes: number }> {
  const numbers: number[] = [];
  let digits = '';
  let count: number | undefined;
  for (let mapBytes = BLOCK_BYTES; mapBytes <= bytesMax; mapBytes += BLOCK_BYTES) {
    for (const byte of await bytes.must(BLOCK_BYTES)) {
      if (byte !== NEWLINE) {
        digits += String.fromCharCode(byte);
        if (digits.length > DIGITS_MAX) throw new DamagedMap();
        continue;
      }
      if (count === undefined) count = whole(digits);
      else numbers.push(whole(digits));
      digits = '';
      if (count > PIECES_MAX) throw new DamagedMap();
      if (numbers.length === 2 * count) return { numbers, mapBytes };
    }
  }
  throw new DamagedMap();
}

function piecesOf(numbers: readonly number[], size: number): Piece[] {
  const pieces: Piece[] = [];
  let end = 0;
  for (let index = 0; index < numbers.length; index += 2) {
    const [offset = Number.NaN, length = Number.NaN] = numbers.slice(index, index + 2);
    if (!(offset >= end && length >= 0 && offset + length <= size)) throw new DamagedMap();
    // The last piece is often empty: it marks the end of the file.
    if (length > 0) pieces.push({ offset, length });
    end = offset + length;
  }
  if (pieces.length > PIECES_MAX || !Number.isSafeInteger(size) || size < 0) throw new DamagedMap();
  return pieces;
}

function whole(digits: string): number {
  const value = /^[0-9]+$/.test(digits) ? Number(digits) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new DamagedMap();
  return value;
}
