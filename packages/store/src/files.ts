import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open, realpath, rename, rm, unlink } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { errnoOf, StoreError } from './errors.ts';

/**
 * Writes a file atomically: readers see the old content or the new content, even after a crash. Writes a temporary file beside
 * it, syncs it, renames it, and syncs the directory.
 */
export async function writeFileAtomic(
  path: string,
  data: string | Uint8Array,
  options: { mode?: number } = {},
): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  const file = await open(temporary, flags, options.mode ?? 0o600);
  try {
    try {
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await removeFile(temporary);
    throw error;
  }
  await syncDirectory(dirname(path));
}

/** Makes renames and unlinks in a directory survive a power cut. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Removes a file. Returns whether there was one. */
export async function removeFile(path: string): Promise<boolean> {
  try {
    await unlink(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/**
 * Removes a directory with all that is in it. `path` must lie inside `root`, also once the symbolic links on the
 * way to it are followed: a mistaken path must not cost the host its files.
 */
export async function removeTree(root: string, path: string): Promise<void> {
  const target = resolve(path);
  assertInside(resolve(root), target);
  let parent: string;
  try {
    parent = await realpath(dirname(target));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw error;
  }
  assertInside(await realpath(root), join(parent, basename(target)));
  await rm(join(parent, basename(target)), { recursive: true, force: true });
}

function assertInside(root: string, path: string): void {
  if (!path.startsWith(root.endsWith(sep) ? root : root + sep)) {
    throw new StoreError('outside_root', `Refused to remove ${path}: it is not inside ${root}.`);
  }
}

/** Reads a file of at most `bytesMax` bytes; `null` when there is none. A longer one is refused by throwing `tooLong`. */
export async function readCapped(path: string, bytesMax: number, tooLong: () => Error): Promise<Buffer | null> {
  let file;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
  try {
    if ((await file.stat()).size > bytesMax) throw tooLong();
    return await file.readFile();
  } finally {
    await file.close();
  }
}
