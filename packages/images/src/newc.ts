/**
 * A cpio archive in the "newc" format, the only one that the kernel's initramfs unpacker reads.
 *
 *   "070701" | 13 fields of 8 hexadecimal digits | name NUL | pad to 4 | data | pad to 4     ... and "TRAILER!!!" at the end
 */
export interface NewcEntry {
  /** Name without a leading slash. A directory comes before its entries. */
  readonly name: string;
  /** The file's bytes; a directory has none. */
  readonly data?: Uint8Array;
  /** Permission bits; by default 0o755 for directories, 0o644 for files. */
  readonly mode?: number;
}

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const HEADER_BYTES = 110;
/** The unpacker refuses longer names. */
const NAME_BYTES_MAX = 4095;

/** The archive's bytes. Times, owners and inode numbers are fixed, so equal entries give equal archives. */
export function writeNewc(entries: readonly NewcEntry[]): Buffer {
  const chunks = entries.flatMap((entry, index) => encode(entry, index + 1));
  return Buffer.concat([...chunks, ...encodeFields('TRAILER!!!', [0, 0, 0, 0, 1, 0, 0], new Uint8Array())]);
}

function encode(entry: NewcEntry, inode: number): Uint8Array[] {
  const isFile = entry.data !== undefined;
  const mode = (isFile ? S_IFREG : S_IFDIR) | (entry.mode ?? (isFile ? 0o644 : 0o755));
  const data = entry.data ?? new Uint8Array();
  return encodeFields(entry.name, [inode, mode, 0, 0, isFile ? 1 : 2, 0, data.length], data);
}

/** `fields` are inode, mode, uid, gid, links, mtime and size; the device numbers and the checksum stay zero. */
function encodeFields(name: string, fields: readonly number[], data: Uint8Array): Uint8Array[] {
  const nameBytes = Buffer.from(`${name}\0`);
  if (name === '' || name.startsWith('/') || nameBytes.length > NAME_BYTES_MAX) {
    throw new RangeError(`newc: '${name}' cannot be the name of an entry`);
  }
  if (data.length > 0xffff_ffff) throw new RangeError(`newc: '${name}' has more than 4 GiB`);
  const numbers = [...fields, 0, 0, 0, 0, nameBytes.length, 0];
  const header = Buffer.from(`070701${numbers.map((value) => value.toString(16).padStart(8, '0')).join('')}`);
  return [header, nameBytes, padding(HEADER_BYTES + nameBytes.length), data, padding(data.length)];
}

function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4);
}
