import { randomUUID } from 'node:crypto';
import { constants, createReadStream, createWriteStream, type Stats } from 'node:fs';
import { chmod, lstat, open, readlink, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { bytesOfPath, hasOtherBytes, pathOfBytes, CodedError } from '@forkd/api/constants';

/** The mode bits that a new file gets. The guest must not set setuid or setgid on this host. */
const PERMISSIONS = 0o777;
/** Symbolic links that are followed one after the other, as many as the kernel follows. */
const LINKS_MAX = 40;

/** A path for the system: text as it is, and as bytes if some of them are not UTF-8. */
export function osPath(path: string): string | Buffer {
  return hasOtherBytes(path) ? Buffer.from(bytesOfPath(path)) : path;
}

/** Returns the path behind all symbolic links, even if nothing is there yet. */
export async function behindLinks(path: string): Promise<string> {
  let found = path;
  for (let links = 0; links <= LINKS_MAX; links += 1) {
    const link = await readlink(osPath(found), 'buffer').catch(() => undefined);
    if (link === undefined) return found;
    found = resolve(dirname(found), pathOfBytes(link));
  }
  throw new CodedError('bad_path', `${path} is a symbolic link that leads to itself.`);
}

/** True for a device, a FIFO or a socket. */
export function isSpecial(found: Stats | undefined): boolean {
  return found !== undefined && !found.isFile() && !found.isDirectory() && !found.isSymbolicLink();
}

/** Writes into a file, a device or a FIFO that exists. @returns the number of bytes. */
export async function writeInto(path: string, content: AsyncIterable<Uint8Array>): Promise<number> {
  const file = (await open(osPath(path), constants.O_WRONLY | constants.O_TRUNC)).createWriteStream();
  await pipeline(content, file);
  return file.bytesWritten;
}

/**
 * Writes a temporary file and renames it: an interrupted copy leaves an existing file untouched. An existing file keeps its
 * owner, its mode and its other names. A symbolic link is replaced. @returns the number of bytes.
 */
export async function replaceFile(path: string, mode: number, content: AsyncIterable<Uint8Array>): Promise<number> {
  const partial = join(dirname(path), `.forkd-${randomUUID()}`);
  const file = createWriteStream(osPath(partial), { flags: 'wx', mode: mode & PERMISSIONS });
  try {
    await pipeline(content, file);
    await putInPlace(partial, path);
  } finally {
    await rm(osPath(partial), { force: true });
  }
  return file.bytesWritten;
}

async function putInPlace(partial: string, path: string): Promise<void> {
  const [from, to] = [osPath(partial), osPath(path)];
  const [made, replaced] = [await lstat(from), await lstat(to).catch(() => undefined)];
  if (replaced?.isFile() === true) {
    if (replaced.nlink > 1 || replaced.uid !== made.uid || replaced.gid !== made.gid) {
      // Only writing into the file keeps its owner and its other names.
      await writeInto(path, createReadStream(from));
      return;
    }
    await chmod(from, replaced.mode);
  }
  await rename(from, to);
}
