import { boundedText, visibleLine } from '@forkd/api/constants';
import { BLOCK_BYTES, ByteReader, number, TarError, text, untilNul } from './tar-bytes.ts';
import { addRecord, filled, readSparse, sparseName, type Sparse } from './tar-sparse.ts';

/**
 * Reads tar archives as container engines write them: POSIX (pax), GNU and the formats before them.
 *
 * A name is bytes, not text: Linux allows any byte in it, and layers have names that are not UTF-8, also in pax records.
 * A name is therefore a string of one character per byte here ('latin1'), and so is a link's target and an extended attribute.
 */
export interface TarEntry {
  readonly type: TarType;
  readonly path: string;
  /** The target of a symbolic link, or the path of the member that a hard link names. */
  readonly link: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  /** Bytes of content. Only files have any. */
  readonly size: number;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: readonly (readonly [name: string, value: string])[];
}

export type TarType = keyof typeof TYPE_FLAGS;

export const TYPE_FLAGS = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
} as const;

export const XATTR_KEY = 'SCHILY.xattr.';
/** A name has at most 4 KiB, and the attributes of a file 64 KiB; the rest is slack. */
const EXTENSION_BYTES_MAX = 1024 * 1024;
const NAME_CHARS_SHOWN = 300;
/** Zeros that the sparse files of one archive are filled with. */
const HOLE_BYTES_MAX = 16 * 1024 ** 3;

export interface Member {
  readonly entry: TarEntry;
  /** The content. What the caller does not read is skipped. */
  readonly content: AsyncIterable<Buffer>;
}

/** The members of an archive, one after the other. */
export async function* readTar(chunks: AsyncIterable<Buffer>): AsyncGenerator<Member> {
  const bytes = new ByteReader(chunks);
  try {
    yield* readMembers(bytes);
    // A decompressor that is not read to its end would be taken for one that failed.
    await bytes.drain();
  } finally {
    await bytes.close();
  }
}

async function* readMembers(bytes: ByteReader): AsyncGenerator<Member> {
  let extension: Extension = {};
  let holeBytes = 0;
  for (;;) {
    const block = await bytes.read(BLOCK_BYTES);
    if (block === null || block.every((byte) => byte === 0)) return;
    const header = parseHeader(block);
    if ('xgLK'.includes(header.flag)) {
      extension = { ...extension, ...(await readExtension(bytes, header)) };
      continue;
    }
    const stored = toEntry(header, extension);
    const { records = new Map() } = extension;
    extension = {};
    if (stored === null) {
      await bytes.skip(padded(header.size));
      continue;
    }
    const { type, path, size } = stored;
    const sparse = type === 'file' ? await readSparse(bytes, block, records, size, shown(path)) : null;
    const entry = sparse === null ? stored : { ...stored, size: sparse.size };
    holeBytes += entry.size - size + (sparse?.mapBytes ?? 0);
    if (holeBytes > HOLE_BYTES_MAX) {
      throw new TarError(`'${shown(path)}' makes the holes of its sparse files more than 16 GiB.`);
    }
    const content = new Content(bytes, size, sparse);
    yield { entry, content };
    await content.skipRest();
  }
}

/** The content of one member, which can be read once. */
class Content implements AsyncIterable<Buffer> {
  readonly #bytes: ByteReader;
  #left: number;
  readonly #padding: number;
  readonly #sparse: Sparse | null;

  constructor(bytes: ByteReader, storedBytes: number, sparse: Sparse | null) {
    this.#bytes = bytes;
    this.#left = storedBytes - (sparse?.mapBytes ?? 0);
    this.#padding = padded(storedBytes) - storedBytes;
    this.#sparse = sparse;
  }

  [Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    return this.#sparse === null ? this.#stored() : filled(this.#stored(), this.#sparse);
  }

  async *#stored(): AsyncGenerator<Buffer> {
    for await (const chunk of this.#bytes.take(this.#left)) {
      this.#left -= chunk.length;
      yield chunk;
    }
  }

  async skipRest(): Promise<void> {
    await this.#bytes.skip(this.#left + this.#padding);
  }
}

export function padded(size: number): number {
  return Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES;
}

interface Header {
  readonly flag: string;
  readonly path: string;
  readonly link: string;
  readonly size: number;
  readonly numbers: Pick<TarEntry, 'mode' | 'uid' | 'gid' | 'mtime' | 'major' | 'minor'>;
}

/**
 *   0 name 100 | 100 mode 8 | 108 uid 8 | 116 gid 8 | 124 size 12 | 136 mtime 12 | 148 checksum 8 | 156 type 1 | 157 link 100
 *   257 magic 6 | 263 version 2 | 265 user 32 | 297 group 32 | 329 major 8 | 337 minor 8 | 345 prefix 155
 */
function parseHeader(block: Buffer): Header {
  if (number(block, 148, 8) !== checksum(block)) throw new TarError('It is not a tar archive, or it is damaged.');
  const magic = block.toString('latin1', 257, 263);
  const isUstar = magic.startsWith('ustar');
  const prefix = magic === 'ustar\0' ? text(block, 345, 155) : '';
  const name = text(block, 0, 100);
  const size = number(block, 124, 12);
  if (!Number.isSafeInteger(size) || size < 0)
    throw new TarError(`The size of '${shown(name)}' is not a number of bytes.`);
  return {
    flag: String.fromCharCode(block[156]!),
    path: prefix === '' ? name : `${prefix}/${name}`,
    link: text(block, 157, 100),
    size,
    numbers: {
      mode: number(block, 100, 8) & 0o7777,
      uid: number(block, 108, 8),
      gid: number(block, 116, 8),
      mtime: number(block, 136, 12),
      major: isUstar ? number(block, 329, 8) : 0,
      minor: isUstar ? number(block, 337, 8) : 0,
    },
  };
}

/** The sum of all bytes, with blanks in the place of the sum itself. */
export function checksum(block: Buffer): number {
  let sum = 8 * 32;
  for (let at = 0; at < BLOCK_BYTES; at++) if (at < 148 || at >= 156) sum += block[at]!;
  return sum;
}

/** The facts of a member that extra members before it give. */
interface Extension {
  path?: string;
  link?: string;
  records?: ReadonlyMap<string, string>;
}

async function readExtension(bytes: ByteReader, { flag, size }: Header): Promise<Extension> {
  if (size > EXTENSION_BYTES_MAX) throw new TarError(`The header of a member has ${size} bytes.`);
  const data = (await bytes.must(padded(size))).subarray(0, size);
  if (flag === 'L') return { path: untilNul(data) };
  if (flag === 'K') return { link: untilNul(data) };
  // Container engines ignore global records too. Git writes its comment there.
  return flag === 'g' ? {} : { records: parseRecords(data) };
}

/**
 * `LENGTH KEY=VALUE\n`, where the length counts the whole record. Each text is a copy: a part of a string would keep all of it,
 * and there may be a megabyte of comments for each name.
 */
function parseRecords(data: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < data.length;) {
    const blank = data.indexOf(' ', at);
    const length = blank < at ? Number.NaN : Number(data.toString('latin1', at, blank));
    const end = at + length - 1;
    const equals = data.indexOf('=', blank);
    const isWhole = Number.isInteger(length) && end < data.length && blank < equals && equals < end;
    if (!isWhole || data[end] !== 0x0a) throw new TarError('The header of a member is damaged.');
    addRecord(records, data.toString('latin1', blank + 1, equals), data.toString('latin1', equals + 1, end));
    at = end + 1;
  }
  return records;
}

const TYPES = new Map<string, TarType>(Object.entries(TYPE_FLAGS).map(([type, flag]) => [flag, type as TarType]));

/** Null for a member that is no file, such as the label of a volume. */
function toEntry(header: Header, { path: longPath, link: longLink, records = new Map() }: Extension): TarEntry | null {
  const path = sparseName(records) ?? records.get('path') ?? longPath ?? header.path;
  const link = records.get('linkpath') ?? longLink ?? header.link;
  if (header.flag === 'V') return null;
  // A file of a tar before POSIX, one that is contiguous, and one that is sparse.
  const flag = ['\0', '7', 'S'].includes(header.flag) ? '0' : header.flag;
  const named = TYPES.get(flag);
  if (named === undefined) throw new TarError(`'${shown(path)}' is of the unknown type '${shown(flag)}'.`);
  if (path.includes('\0') || link.includes('\0')) throw new TarError(`The name '${shown(path)}' has a zero byte.`);
  // A tar before POSIX marks a directory by a slash at the end of its name.
  const type = named === 'file' && path.endsWith('/') ? 'directory' : named;
  const decimal = (key: string, otherwise: number) => {
    const value = records.has(key) ? Math.floor(Number(records.get(key))) : otherwise;
    if (!Number.isSafeInteger(value)) throw new TarError(`The ${key} of '${shown(path)}' is not a number.`);
    return value;
  };
  const size = type === 'file' ? decimal('size', header.size) : 0;
  if (size < 0) throw new TarError(`The size of '${shown(path)}' is not a number of bytes.`);
  return {
    ...header.numbers,
    type,
    path,
    link,
    size,
    uid: decimal('uid', header.numbers.uid),
    gid: decimal('gid', header.numbers.gid),
    mtime: decimal('mtime', header.numbers.mtime),
    xattrs: [...records]
      .filter(([key]) => key.startsWith(XATTR_KEY))
      .map(([key, value]) => [key.slice(XATTR_KEY.length), value]),
  };
}

/** A name for people: as UTF-8, on one line. */
export function shown(name: string): string {
  return visibleLine(boundedText(Buffer.from(name, 'latin1').toString(), NAME_CHARS_SHOWN));
}
