import { open, watch } from 'node:fs/promises';

/** How much is read at a time. */
const chunkBytes = 64 * 1024;

/**
 * The last `tailBytes` of a file, and with `follow` what is written to it after that, until `signal` fires. A file that is
 * not there is empty.
 */
export async function* readLog(
  path: string,
  { tailBytes, follow, signal }: { tailBytes: number; follow: boolean; signal: AbortSignal },
): AsyncGenerator<Uint8Array> {
  const file = await open(path, 'r').catch(() => null);
  if (file === null) return;
  try {
    // Before the first read, so that nothing is written unnoticed between the last one and the wait.
    const changes = follow ? watch(path, { signal })[Symbol.asyncIterator]() : null;
    let offset = Math.max(0, (await file.stat()).size - tailBytes);
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(chunkBytes), 0, chunkBytes, offset);
      offset += bytesRead;
      if (bytesRead > 0) yield buffer.subarray(0, bytesRead);
      else if (changes === null || (await changes.next().catch(() => null))?.done !== false) return;
    }
  } finally {
    await file.close();
  }
}
