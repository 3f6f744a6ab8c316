import { randomBytes } from 'node:crypto';

const KEY_BYTES = 16;

/** Makes the key that a VMM shows when it calls the pager or the disk server, or under which its network wire is known. */
export function newKey(): string {
  return randomBytes(KEY_BYTES).toString('hex');
}
