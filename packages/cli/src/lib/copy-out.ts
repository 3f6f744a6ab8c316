import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { DirEntry } from '@forkd/api';
import { checkName, guestDir, type Copied, type Guest } from './copy.ts';
import { isForkdError } from '@forkd/sdk';
import { writeBytes } from './output.ts';

const FILE_MODE_DEFAULT = 0o644;

/** One file to stdout. */
export async function streamOut(guest: Guest, source: string): Promise<Copied> {
  let bytes = 0;
  for await (const chunk of guest.client.readFileStream(guest.sandboxId, source, { signal: guest.context.signal })) {
    bytes += chunk.length;
    await writeBytes(guest.context.out.streams.stdout, chunk);
  }
  return { files: 1, bytes };
}

/** A file or a directory out of the guest. */
export async function copyOut(guest: Guest, source: string, target: string): Promise<Copied> {
  const entries = await guestDir(guest, source);
  const isInto = target.endsWith('/') || (await isDirectory(target));
  const root = isInto ? path.join(target, path.posix.basename(source)) : target;
  const copied: Copied = { files: 0, bytes: 0 };
  if (entries !== undefined) {
    await copyTree(guest, { source, target: root, entries }, copied);
    return copied;
  }
  await copyFile(guest, source, root, await modeOf(guest, source), copied);
  return copied;
}

type Tree = { source: string; target: string; entries: readonly DirEntry[] };

async function copyTree(guest: Guest, tree: Tree, copied: Copied): Promise<void> {
  await mkdir(tree.target, { recursive: true });
  for (const entry of tree.entries) {
    const name = checkName(entry.name);
    const source = path.posix.join(tree.source, name);
    const target = path.join(tree.target, name);
    if (entry.type === 'dir') {
      const entries = (await guestDir(guest, source)) ?? [];
      await copyTree(guest, { source, target, entries }, copied);
    } else if (entry.type === 'file') {
      await copyFile(guest, source, target, Number.parseInt(entry.mode, 8), copied);
    } else if (entry.type !== 'symlink' || !(await copyLinked(guest, source, target, copied))) {
      guest.context.out.warn(`${source} is left out: it is neither a file nor a directory`);
    }
  }
}

/** @returns false for a link that leads to no file. */
async function copyLinked(guest: Guest, source: string, target: string, copied: Copied): Promise<boolean> {
  try {
    await copyFile(guest, source, target, FILE_MODE_DEFAULT, copied);
    return true;
  } catch (error) {
    const codes = ['not_found_file', 'not_found', 'is_a_directory', 'not_a_file'];
    if (codes.some((code) => isForkdError(error, code))) return false;
    throw error;
  }
}

/** Through a name of its own, so that a copy that breaks off leaves what was there. */
async function copyFile(guest: Guest, source: string, target: string, mode: number, copied: Copied): Promise<void> {
  const partial = `${target}.forkd-${process.pid}`;
  const { signal } = guest.context;
  const file = createWriteStream(partial, { mode });
  try {
    await pipeline(guest.client.readFileStream(guest.sandboxId, source, { signal }), file);
    await rename(partial, target);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
  copied.files += 1;
  copied.bytes += file.bytesWritten;
}

async function modeOf(guest: Guest, source: string): Promise<number> {
  const siblings = await guestDir(guest, path.posix.dirname(source));
  const entry = siblings?.find((sibling) => sibling.name === path.posix.basename(source));
  return entry?.type === 'file' ? Number.parseInt(entry.mode, 8) : FILE_MODE_DEFAULT;
}

async function isDirectory(target: string): Promise<boolean> {
  const found = await stat(target).catch(() => undefined);
  return found?.isDirectory() === true;
}
