import { readFile } from 'node:fs/promises';

/** What the kernel thinks can be had without swapping, in bytes; `null` where it does not say. */
export async function availableMemoryBytes(): Promise<number | null> {
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'latin1'))?.[1];
  return kib === undefined ? null : Number(kib) * 1024;
}
