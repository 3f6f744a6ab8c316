import type { RefreshEntry } from '@forkd/api';
import { boundedText, visibleText } from '@forkd/api/constants';
import type { ReplyOf } from './wire.ts';

/** The agent's findings at the end of its boot. */
export interface Refresh {
  /** Each at its guest-physical address. */
  entries: RefreshEntry[];
  /** Bytes of memory above 4 GiB. */
  ramAbove4g: number;
  /** Why the kernel's random number generator is not among the entries; `null` when it is. */
  unavailable: string | null;
}

const REASON_CHARS_MAX = 256;

/** Converts the reply of an agent to the words of the host. */
export function refreshOf({ entries, ram_above_4g: ramAbove4g, unavailable }: ReplyOf<'refresh'>): Refresh {
  return {
    entries: entries.map(({ at, bytes, op }) => ({ at, bytes, op })),
    ramAbove4g,
    unavailable: unavailable === null ? null : visibleText(boundedText(unavailable, REASON_CHARS_MAX)),
  };
}
