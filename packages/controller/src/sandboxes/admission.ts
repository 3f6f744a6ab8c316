import { readFile } from 'node:fs/promises';

import { ApiError } from '@forkd/api';

import { limits } from '../limits.ts';

const mib = 1024 * 1024;

/** Refuses VMs that the host has no memory for, before any is started: the kernel would choose its victim later. */
export async function admit(what: string, count: number, bytesEach: number): Promise<void> {
  const availableBytes = await availableMemoryBytes();
  if (availableBytes === null) return;
  const neededBytes = count * bytesEach + limits.hostReserveBytes;
  if (neededBytes <= availableBytes) return;
  const mibOf = (bytes: number) => Math.ceil(bytes / mib);
  const sentence =
    `${what} needs about ${mibOf(neededBytes)} MiB (${count} × ${mibOf(bytesEach)} MiB and ` +
    `${mibOf(limits.hostReserveBytes)} MiB for the host), ${mibOf(availableBytes)} MiB are available.`;
  throw new ApiError('out_of_memory', sentence);
}

/** What the kernel thinks can be had without swapping; `null` where it does not say. */
async function availableMemoryBytes(): Promise<number | null> {
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'latin1'))?.[1];
  return kib === undefined ? null : Number(kib) * 1024;
}
