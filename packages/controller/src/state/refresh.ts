import { indexOutside, memBytesOf, type Refresh } from '@forkd/api';
import type { Refresh as FoundRefresh } from '@forkd/guest';
import { limits } from '../limits.ts';
import type { Sandbox } from './sandbox.ts';

const ABOVE = 4 * 1024 ** 3;

/**
 * Asks a freshly booted guest where children must differ from each other. A guest that has run a program of a user is never
 * asked, because its answer could come from anyone.
 */
export async function askForRefresh(sandbox: Sandbox, memMib: number, signal: AbortSignal): Promise<Refresh> {
  const options = { timeoutMs: limits.guestRequestTimeoutMs, signal };
  const found = await sandbox.guest.call((agent) => agent.refresh(options), { signal, repeatable: true });
  return recordOf(found, memMib);
}

/** Turns addresses into offsets in memory. An address outside of memory makes the whole list unavailable. */
export function recordOf({ entries, ramAbove4g, unavailable }: FoundRefresh, memMib: number): Refresh {
  const memBytes = memBytesOf({ mem_mib: memMib });
  const offsets = entries.map(({ at, ...rest }) => ({ at: offsetOf(at, ramAbove4g, memBytes), ...rest }));
  const problem = entriesProblem(offsets, memMib);
  if (problem !== undefined) return { entries: [], unavailable: problem };
  return { entries: offsets, unavailable };
}

/** Memory above 4 GiB follows on memory below, where a hole for devices begins earlier. */
function offsetOf(address: number, ramAbove4g: number, memBytes: number): number {
  return address < ABOVE ? address : address - ABOVE + (memBytes - ramAbove4g);
}

/** Reason why these cannot be places in the memory of a guest; `undefined` if they can. */
export function entriesProblem(entries: Refresh['entries'], memMib: number): string | undefined {
  const outside = entries[indexOutside(entries, { mem_mib: memMib })];
  if (outside !== undefined) return `the guest named offset ${outside.at}, which is outside of its memory`;
  return undefined;
}

/** The warning about children's random numbers; `undefined` if each child has its own from the start. */
export function randomWarning(refresh: Refresh | null): string | undefined {
  if (refresh !== null && refresh.unavailable === null) return undefined;
  const why = refresh === null ? 'an earlier version made the snapshot' : refresh.unavailable;
  return `random numbers: until its identity is set, a child draws the same ones as its siblings (${why})`;
}
