import { ApiError, MIB } from '@forkd/api';
import { availableMemoryBytes } from '@forkd/engine';
import { limits } from '../limits.ts';

/** Refuses VMs that do not fit into the host's memory, before any starts. Otherwise the kernel would kill a process later. */
export async function admit(what: string, count: number, bytesEach: number): Promise<void> {
  const availableBytes = await availableMemoryBytes();
  if (availableBytes === null) return;
  const neededBytes = count * bytesEach + limits.hostReserveBytes;
  if (neededBytes <= availableBytes) return;
  const mibOf = (bytes: number) => Math.ceil(bytes / MIB);
  const sentence =
    `${what} needs about ${mibOf(neededBytes)} MiB (${count} × ${mibOf(bytesEach)} MiB and ` +
    `${mibOf(limits.hostReserveBytes)} MiB for the host), ${mibOf(availableBytes)} MiB are available.`;
  throw new ApiError('out_of_memory', sentence);
}
