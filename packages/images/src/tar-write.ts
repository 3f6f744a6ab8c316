import { BLOCK_BYTES } from './tar-bytes.ts';
import { TYPE_FLAGS, XATTR_KEY, checksum, padded, type TarEntry } from './tar-read.ts';

/** The header of a member as GNU tar reads it: its names are bytes, while those of a pax header are converted from UTF-8. */
export function* writeHeader(entry: TarEntry): Generator<Buffer> {
  if (entry.xattrs.length > 0) yield* extension('x', entry.xattrs.map(record).join(''));
  if (entry.path.length > 100) yield* extension('L', `${entry.path}\0`);
  if (entry.link.length > 100) yield* extension('K', `${entry.link}\0`);
  yield header(entry, TYPE_FLAGS[entry.type]);
}

/** The zeros that fill the last block of a member's content. */
export function padding(size: number): Buffer {
  return Buffer.alloc(padded(size) - size);
}

export const END_OF_TAR = Buffer.alloc(2 * BLOCK_BYTES);

function* extension(flag: string, data: string): Generator<Buffer> {
  const size = data.length;
  const fields = { path: '././@LongLink', link: '', mode: 0, uid: 0, gid: 0, mtime: 0, major: 0, minor: 0, size };
  yield header(fields, flag);
  yield Buffer.from(data, 'latin1');
  yield padding(size);
}

/** `LENGTH KEY=VALUE\n`: the length counts itself. */
function record([name, value]: readonly [string, string]): string {
  const rest = ` ${XATTR_KEY}${name}=${value}\n`;
  const guess = rest.length + String(rest.length).length;
  return `${rest.length + String(guess).length}${rest}`;
}

function header(entry: Omit<TarEntry, 'type' | 'xattrs'>, flag: string): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.write(entry.path.slice(0, 100), 0, 'latin1');
  number(block, 100, 8, entry.mode);
  number(block, 108, 8, entry.uid);
  number(block, 116, 8, entry.gid);
  number(block, 124, 12, entry.size);
  number(block, 136, 12, entry.mtime);
  block.write(flag, 156, 'latin1');
  block.write(entry.link.slice(0, 100), 157, 'latin1');
  block.write('ustar  \0', 257, 'latin1');
  number(block, 329, 8, entry.major);
  number(block, 337, 8, entry.minor);
  block.write(`${checksum(block).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** Octal digits, or a binary number whose first bit is set where they do not suffice. */
function number(block: Buffer, at: number, length: number, value: number): void {
  const digits = value.toString(8);
  if (value >= 0 && digits.length < length) {
    block.write(digits.padStart(length - 1, '0'), at, 'latin1');
    return;
  }
  let rest = value;
  for (let next = at + length - 1; next > at; next--) {
    block[next] = ((rest % 256) + 256) % 256;
    rest = Math.floor(rest / 256);
  }
  block[at] = value < 0 ? 0xff : 0x80;
}
