import { open, watch } from 'node:fs/promises';
import { join } from 'node:path';
import { limits as apiLimits, type LogsQuery } from '@forkd/api';
import { anySignal, consoleFile } from '@forkd/engine';
import type { Host } from './host.ts';

/** The size of one read. */
const CHUNK_BYTES = 64 * 1024;

/** Streams the console of a sandbox. */
export function readConsole(
  { registry }: Pick<Host, 'registry'>,
  id: string,
  query: LogsQuery,
  outer: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const sandbox = registry.find(id);
  const signal = anySignal(outer, sandbox.ended.signal);
  const { tail_bytes: tailBytes = apiLimits.logTailBytesDefault, follow = false } = query;
  return readLog(join(sandbox.vmDir, consoleFile), { tailBytes, follow, signal });
}

/**
 * The last `tailBytes` of a file, and with `follow` what is written to it after that, until `signal` fires. A missing file reads as
 * empty.
 */
async function* readLog(
  file: string,
  { tailBytes, follow, signal }: { tailBytes: number; follow: boolean; signal: AbortSignal },
): AsyncGenerator<Uint8Array> {
  const handle = await open(file, 'r').catch(() => null);
  if (handle === null) return;
  try {
    // The watch begins before the first read, so that no write between the last read and the wait goes unnoticed.
    const changes = follow ? watch(file, { signal })[Symbol.asyncIterator]() : null;
    let offset = Math.max(0, (await handle.stat()).size - tailBytes);
    for (;;) {
      const { bytesRead, buffer } = await handle.read(Buffer.alloc(CHUNK_BYTES), 0, CHUNK_BYTES, offset);
      offset += bytesRead;
      if (bytesRead > 0) yield buffer.subarray(0, bytesRead);
      else if (changes === null || (await changes.next().catch(() => null))?.done !== false) return;
    }
  } finally {
    await handle.close();
  }
}
