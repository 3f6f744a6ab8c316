import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { guestDir, type Copied, type Guest } from './copy.ts';
import { CommandError } from './errors.ts';

/** Directories of one `mkdir`, which keeps its arguments well under what a guest takes. */
const MKDIR_BATCH = 500;

type LocalFile = { source: string; target: string; mode: number };
type Plan = { directories: string[]; files: LocalFile[] };

/** stdin into one file. */
export async function streamIn(guest: Guest, target: string): Promise<Copied> {
  let bytes = 0;
  async function* counted() {
    for await (const chunk of guest.context.out.streams.stdin as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      yield chunk;
    }
  }
  await guest.client.writeFile(guest.sandboxId, target, counted(), {}, { signal: guest.context.signal });
  return { files: 1, bytes };
}

/** A file or a directory into the guest. */
export async function copyIn(guest: Guest, source: string, target: string): Promise<Copied> {
  const found = await stat(source);
  const isInto = target.endsWith('/') || (await guestDir(guest, target)) !== undefined;
  const root = isInto ? path.posix.join(target, path.basename(path.resolve(source))) : target;
  const plan: Plan = { directories: [], files: [] };
  if (found.isDirectory()) await planTree(guest, source, root, plan);
  else plan.files.push({ source, target: root, mode: found.mode });
  await makeDirectories(guest, plan.directories);
  let bytes = 0;
  for (const file of plan.files) bytes += await copyFile(guest, file);
  return { files: plan.files.length, bytes };
}

async function planTree(guest: Guest, source: string, target: string, plan: Plan): Promise<void> {
  plan.directories.push(target);
  for (const entry of await readdir(source, { withFileTypes: true })) {
    const from = path.join(source, entry.name);
    const to = path.posix.join(target, entry.name);
    if (entry.isDirectory()) {
      await planTree(guest, from, to, plan);
      continue;
    }
    const found = await stat(from).catch(() => undefined);
    if (found?.isFile()) plan.files.push({ source: from, target: to, mode: found.mode });
    else guest.context.out.warn(`${from} is left out: it is neither a file nor a directory`);
  }
}

/** A file makes the directories above it, an empty directory needs to be made: all at once is simplest. */
async function makeDirectories(guest: Guest, directories: readonly string[]): Promise<void> {
  for (let start = 0; start < directories.length; start += MKDIR_BATCH) {
    const args = ['mkdir', '-p', '--', ...directories.slice(start, start + MKDIR_BATCH)];
    const result = await guest.client.exec(guest.sandboxId, { args }, { signal: guest.context.signal });
    if (result.exit_code !== 0) {
      throw new CommandError(
        'guest_failed',
        `directories could not be made in ${guest.sandboxId}: ${result.stderr.trim()}`,
      );
    }
  }
}

async function copyFile(guest: Guest, file: LocalFile): Promise<number> {
  const stream = createReadStream(file.source);
  const mode = (file.mode & 0o7777).toString(8).padStart(4, '0');
  try {
    await guest.client.writeFile(guest.sandboxId, file.target, stream, { mode }, { signal: guest.context.signal });
  } finally {
    stream.destroy();
  }
  return stream.bytesRead;
}
