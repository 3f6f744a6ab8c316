import { readFile } from 'node:fs/promises';
import type { MemoryUse } from './pager/wire.ts';

/** Memory that is available without swapping, in bytes, as the kernel estimates it. `null` if the kernel does not say. */
export async function availableMemoryBytes(): Promise<number | null> {
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'latin1'))?.[1];
  return kib === undefined ? null : Number(kib) * 1024;
}

/** The memory of a VMM that the pager does not know, as the kernel counts it: the VMM's own is among it. */
export async function readMemoryUse(pid: number): Promise<MemoryUse> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'latin1');
  const bytesOf = (field: string) => Number(new RegExp(`^${field}: +(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0) * 1024;
  const anonymous = bytesOf('Anonymous');
  return { private_bytes: anonymous, shared_bytes: bytesOf('Rss') - anonymous };
}
