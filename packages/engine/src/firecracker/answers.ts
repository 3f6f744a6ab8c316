import type { Instance, MachineConfig } from './requests.ts';

/** Length of the excerpt of Firecracker's own words. */
const FAULT_CHARS_MAX = 500;
const WORD = /^[\w.+-]{1,64}$/;
const STATES: readonly string[] = ['Not started', 'Running', 'Paused'] satisfies Instance['state'][];

/** Schemas of replies. A VMM may belong to its guest, so any other reply becomes `null` and is not believed. */

export function versionIn(value: unknown): string | null {
  return wordIn(fieldsOf(value)['firecracker_version']);
}

export function instanceIn(value: unknown): Instance | null {
  const { id, state, vmm_version } = fieldsOf(value);
  const words = { id: wordIn(id), vmm_version: wordIn(vmm_version) };
  if (words.id === null || words.vmm_version === null || !STATES.includes(state as string)) return null;
  return { id: words.id, vmm_version: words.vmm_version, state: state as Instance['state'] };
}

export function machineIn(value: unknown): MachineConfig | null {
  const { vcpu_count, mem_size_mib, smt, track_dirty_pages } = fieldsOf(value);
  if (!isCount(vcpu_count) || !isCount(mem_size_mib)) return null;
  return { vcpu_count, mem_size_mib, smt: smt === true, track_dirty_pages: track_dirty_pages === true };
}

/** The `fault_message` of an error, or its whole text, as a sentence on one line. */
export function faultIn(text: string): string {
  let fault: unknown = text;
  try {
    fault = fieldsOf(JSON.parse(text))['fault_message'] ?? text;
  } catch {
    // Not in the shape that it should have: shown as it is.
  }
  const words = (typeof fault === 'string' ? fault : text).replaceAll(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim();
  if (words === '') return 'no reason given.';
  if (words.length > FAULT_CHARS_MAX) return `${words.slice(0, FAULT_CHARS_MAX)}… (${words.length} characters)`;
  return /[.!?]$/.test(words) ? words : `${words}.`;
}

function fieldsOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function wordIn(value: unknown): string | null {
  return typeof value === 'string' && WORD.test(value) ? value : null;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}
