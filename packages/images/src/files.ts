import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readFile, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { diskFull, ImageError, isErrno } from './errors.ts';
import { run } from './run.ts';

const STALE_AFTER_MS = 24 * 60 * 60 * 1000;

/**
 * Gives `body` a new directory under `cacheDir/tmp`, on the file system that results are renamed into, and removes it
 * whatever happens.
 */
export async function withWorkDir<T>(cacheDir: string, body: (dir: string) => Promise<T>): Promise<T> {
  const parent = join(cacheDir, 'tmp');
  const dir = join(parent, `${process.pid}-${randomBytes(6).toString('hex')}`);
  await mkdir(dir, { recursive: true });
  try {
    await sweepStale(parent);
    return await body(dir);
  } catch (error) {
    // Programs say it too, but cannot know which of the user's settings led there.
    const isFull = error instanceof ImageError ? error.code === 'disk_full' : isErrno(error, 'ENOSPC', 'EDQUOT');
    throw isFull ? diskFull(cacheDir, error) : error;
  } finally {
    await removeTree(dir);
  }
}

/** Removes what a killed process left behind: only old directories, since another machine may share the cache. */
async function sweepStale(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const dir = join(parent, name);
    const info = await stat(dir).catch(() => null);
    if (info !== null && Date.now() - info.mtimeMs > STALE_AFTER_MS) await removeTree(dir);
  }
}

/**
 * Removes a tree, after unmounting whatever is mounted inside it: a build that was killed may have left /proc or /dev
 * mounted, and deleting through a mount would delete the host's own files.
 */
async function removeTree(dir: string): Promise<void> {
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8'))
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((mountPoint) => mountPoint.startsWith(`${dir}/`));
  for (const mountPoint of mounts.toReversed()) await run('umount', ['--lazy', mountPoint]);
  await rm(dir, { recursive: true, force: true, maxRetries: 3 });
}

/** Writes a file so that another process sees all of it or nothing. */
export async function writeFileAtomic(file: string, data: string | Uint8Array): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}-${randomBytes(6).toString('hex')}`;
  try {
    const handle = await open(temporary, 'wx', 0o644);
    try {
      await handle.writeFile(data);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
    await syncDirectory(dirname(file));
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Moves a finished file to its place, over what is there. It is on disk before it has its name, and so is the name after. */
export async function publishFile(finished: string, place: string): Promise<void> {
  await mkdir(dirname(place), { recursive: true });
  const handle = await open(finished);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(finished, place);
  await syncDirectory(dirname(place));
}

async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Moves a finished directory to its place; when another process was there first, its equal result stays. All of it is on disk
 * before it has its name.
 */
export async function publish(finished: string, place: string): Promise<void> {
  await mkdir(dirname(place), { recursive: true });
  await run('sync', ['--file-system', finished]);
  try {
    await rename(finished, place);
  } catch (error) {
    if (!isErrno(error, 'ENOTEMPTY', 'EEXIST')) throw error;
  }
  await syncDirectory(dirname(place));
}

export async function exists(file: string): Promise<boolean> {
  return (await stat(file).catch(() => null)) !== null;
}

export async function isDirectory(file: string): Promise<boolean> {
  return (await stat(file).catch(() => null))?.isDirectory() ?? false;
}

export async function readJson<T>(file: string): Promise<T> {
  return JSON.parse(await readFile(file, 'utf8')) as T;
}

/** `sha256:` and the hexadecimal digest, as OCI writes it. */
export function sha256(data: string | Uint8Array): string {
  return `sha256:${createHash('sha256').update(data).digest('hex')}`;
}

export async function sha256File(file: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20, signal })) hash.update(chunk as Buffer);
  return `sha256:${hash.digest('hex')}`;
}
