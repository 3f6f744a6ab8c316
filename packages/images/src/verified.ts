import { lstat, readdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { sha256, sha256File } from './files.ts';

/** Files that this process has read completely and found correct: path to digest, with the identity of the file at that time. */
const known = new Map<string, string>();

/**
 * Whether a file holds what its digest says. It is read whole at its first use in this process, and again once its inode, its
 * size or one of its times has changed.
 */
export async function holds(file: string, digest: string, signal?: AbortSignal): Promise<boolean> {
  const stamp = await stampOf(file).catch(() => null);
  if (stamp === null) return false;
  return check(file, `${digest} ${stamp}`, async () => (await sha256File(file, signal)) === digest);
}

/** The same for a directory with all its files, whose digest is that of their names and digests. */
export async function treeHolds(dir: string, digest: string, signal?: AbortSignal): Promise<boolean> {
  return check(dir, await treeStamp(dir, digest), async () => (await treeDigest(dir, signal)) === digest);
}

/** The digest of a directory that is taken as it is. */
export async function trustTree(dir: string, signal?: AbortSignal): Promise<string> {
  const digest = await treeDigest(dir, signal);
  known.set(dir, await treeStamp(dir, digest));
  return digest;
}

async function treeStamp(dir: string, digest: string): Promise<string> {
  const stamps = await Promise.all((await filesOf(dir)).map((file) => stampOf(join(dir, file))));
  return [digest, ...stamps].join(' ');
}

async function treeDigest(dir: string, signal?: AbortSignal): Promise<string> {
  const lines: string[] = [];
  for (const file of await filesOf(dir)) {
    signal?.throwIfAborted();
    lines.push(`${file}\n${await sha256File(join(dir, file), signal)}\n`);
  }
  return sha256(lines.join(''));
}

async function check(place: string, stamp: string, isRight: () => Promise<boolean>): Promise<boolean> {
  if (known.get(place) === stamp) return true;
  known.delete(place);
  if (!(await isRight())) return false;
  known.set(place, stamp);
  return true;
}

async function stampOf(file: string): Promise<string> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await lstat(file, { bigint: true });
  return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
}

async function filesOf(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return files.map((entry) => relative(dir, join(entry.parentPath, entry.name))).toSorted();
}
