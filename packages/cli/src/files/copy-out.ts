import { mkdir, lstat, stat } from 'node:fs/promises';
import { join, posix } from 'node:path';
import type { DirEntry } from '@forkd/api';
import { CodedError } from '@forkd/api/constants';
import { writeBytes } from '../output/output.ts';
import { assertNoLoop, attempt, checkName, guestDir, type Copied, type Guest } from './copy.ts';
import { behindLinks, isSpecial, osPath, replaceFile, writeInto } from './local-file.ts';

/** Writes one file of the guest to stdout. */
export async function streamOut(guest: Guest, source: string): Promise<Copied> {
  let bytes = 0;
  for await (const chunk of contentOf(guest, source)) {
    bytes += chunk.length;
    await writeBytes(guest.context.out.streams.stdout, chunk);
  }
  return { files: 1, bytes, failed: 0 };
}

/** Copies a file or a directory out of the guest. */
export async function copyOut(guest: Guest, source: string, target: string): Promise<Copied> {
  const entries = await guestDir(guest, source);
  const isInto = target.endsWith('/') || (await isDirectory(target));
  const root = isInto ? join(target, nameOf(source)) : target;
  const copied: Copied = { files: 0, bytes: 0, failed: 0 };
  if (entries !== undefined) {
    await mkdir(osPath(root), { recursive: true });
    await copyTree(guest, { source, target: root, entries, within: [posix.resolve('/', source)] }, copied);
    return copied;
  }
  const { mode } = await guest.client.statFile(guest.sandboxId, source, { follow: true }, optionsOf(guest));
  // The caller named this target: a device or a link is meant to be written to. Below a directory neither is.
  if (isSpecial(await stat(osPath(root)).catch(() => undefined)))
    count(copied, await writeInto(root, contentOf(guest, source)));
  else await copyFile(guest, { source, target: await behindLinks(root), mode }, copied);
  return copied;
}

interface Tree {
  source: string;
  target: string;
  entries: readonly DirEntry[];
  /** The directories of the guest that are being copied, outermost first, behind the links that led to them. */
  within: readonly string[];
}

async function copyTree(guest: Guest, tree: Tree, copied: Copied): Promise<void> {
  for (const entry of tree.entries) await attempt(guest, copied, () => copyEntry(guest, tree, entry, copied));
}

async function copyEntry(guest: Guest, tree: Tree, entry: DirEntry, copied: Copied): Promise<void> {
  const name = checkName(entry.name);
  const source = posix.join(tree.source, name);
  const target = join(tree.target, name);
  const { type, mode, directory } = await behindGuestLink(guest, tree, source, entry);
  if (type === 'dir') {
    assertNoLoop(source, directory, tree.within);
    const entries = (await guestDir(guest, source)) ?? [];
    await makeDirectory(target);
    await copyTree(guest, { source, target, entries, within: [...tree.within, directory] }, copied);
  } else if (type === 'file') {
    await copyFile(guest, { source, target, mode }, copied);
  } else {
    guest.context.out.warn(`${source} is left out: it is neither a file nor a directory.`);
  }
}

/** Describes an entry of the guest, and follows it if it is a symbolic link. */
async function behindGuestLink(guest: Guest, { within }: Tree, source: string, entry: DirEntry) {
  const parent = within.at(-1) ?? '/';
  if (entry.type !== 'symlink') return { ...entry, directory: posix.join(parent, entry.name) };
  const { target } = await guest.client.statFile(guest.sandboxId, source, {}, optionsOf(guest));
  const found = await guest.client.statFile(guest.sandboxId, source, { follow: true }, optionsOf(guest));
  return { ...found, directory: posix.resolve(parent, target ?? entry.name) };
}

/** Makes a directory below the target. A symlink is refused: it would lead files of the guest out of the target. */
async function makeDirectory(target: string): Promise<void> {
  try {
    await mkdir(osPath(target));
  } catch (error) {
    const found = await lstat(osPath(target)).catch(() => undefined);
    if (found?.isDirectory() === true) return;
    if (found?.isSymbolicLink() === true) {
      throw new CodedError('bad_path', `${target} is a symbolic link, and nothing is copied through it.`, {
        hint: 'Remove it first.',
      });
    }
    throw error;
  }
}

/** The name that a copied file or directory gets in the target directory. Empty for the root of the guest. */
function nameOf(source: string): string {
  const name = posix.basename(posix.normalize(source));
  return name === '' ? '' : checkName(name);
}

interface GuestFile {
  source: string;
  target: string;
  /** Permission bits, in octal. */
  mode: string;
}

async function copyFile(guest: Guest, { source, target, mode }: GuestFile, copied: Copied): Promise<void> {
  if (isSpecial(await lstat(osPath(target)).catch(() => undefined))) {
    throw new CodedError('bad_path', `${target} is not a regular file, and nothing is copied onto it.`);
  }
  count(copied, await replaceFile(target, Number.parseInt(mode, 8), contentOf(guest, source)));
}

function count(copied: Copied, bytes: number): void {
  copied.files += 1;
  copied.bytes += bytes;
}

function contentOf(guest: Guest, source: string): AsyncGenerator<Uint8Array> {
  return guest.client.readFileStream(guest.sandboxId, source, optionsOf(guest));
}

function optionsOf({ context }: Guest): { signal: AbortSignal } {
  return { signal: context.signal };
}

async function isDirectory(target: string): Promise<boolean> {
  const found = await stat(target).catch(() => undefined);
  return found?.isDirectory() === true;
}
