import { createReadStream } from 'node:fs';
import { readdir, realpath, stat } from 'node:fs/promises';
import { basename, join, posix, resolve } from 'node:path';
import { pathOfBytes } from '@forkd/api/constants';
import { assertNoLoop, attempt, guestDir, type Copied, type Guest } from './copy.ts';
import { osPath } from './local-file.ts';

/** Writes stdin to one file of the guest. */
export async function streamIn(guest: Guest, target: string): Promise<Copied> {
  let bytes = 0;
  async function* counted() {
    for await (const chunk of guest.context.out.streams.stdin as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      yield chunk;
    }
  }
  await guest.client.writeFile(guest.sandboxId, target, counted(), {}, { signal: guest.context.signal });
  return { files: 1, bytes, failed: 0 };
}

/** Copies a file or a directory into the guest. */
export async function copyIn(guest: Guest, source: string, target: string): Promise<Copied> {
  const found = await stat(source);
  const isInto = target.endsWith('/') || (await guestDir(guest, target)) !== undefined;
  const root = isInto ? posix.join(target, basename(resolve(source))) : target;
  const copied: Copied = { files: 0, bytes: 0, failed: 0 };
  if (found.isDirectory()) {
    await copyTree(guest, { source, target: root, within: [await realPath(source)] }, copied);
  } else {
    await copyFile(guest, { source, target: root, mode: found.mode }, copied);
  }
  return copied;
}

interface Tree {
  source: string;
  target: string;
  /** The directories that are being copied, outermost first, without symbolic links. */
  within: readonly string[];
}

async function copyTree(guest: Guest, { source, target, within }: Tree, copied: Copied): Promise<void> {
  await guest.client.makeDir(guest.sandboxId, target, {}, { signal: guest.context.signal });
  for (const bytes of await readdir(osPath(source), 'buffer')) {
    const name = pathOfBytes(bytes);
    const [from, to] = [join(source, name), posix.join(target, name)];
    await attempt(guest, copied, async () => {
      const found = await stat(osPath(from));
      if (found.isDirectory()) {
        const directory = await realPath(from);
        assertNoLoop(from, directory, within);
        await copyTree(guest, { source: from, target: to, within: [...within, directory] }, copied);
      } else if (found.isFile()) {
        await copyFile(guest, { source: from, target: to, mode: found.mode }, copied);
      } else {
        guest.context.out.warn(`${from} is left out: it is neither a file nor a directory.`);
      }
    });
  }
}

async function realPath(path: string): Promise<string> {
  return pathOfBytes(await realpath(osPath(path), 'buffer'));
}

interface LocalFile {
  source: string;
  target: string;
  mode: number;
}

async function copyFile(guest: Guest, file: LocalFile, copied: Copied): Promise<void> {
  const stream = createReadStream(osPath(file.source));
  const mode = (file.mode & 0o777).toString(8).padStart(4, '0');
  try {
    await guest.client.writeFile(guest.sandboxId, file.target, stream, { mode }, { signal: guest.context.signal });
  } finally {
    stream.destroy();
  }
  copied.files += 1;
  copied.bytes += stream.bytesRead;
}
