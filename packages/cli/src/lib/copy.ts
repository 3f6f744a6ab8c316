import type { DirEntry } from '@forkd/api';
import { isForkdError, type ForkdClient } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { CommandError } from './errors.ts';

/** The sandbox that is copied to or from. */
export type Guest = { context: Context; client: ForkdClient; sandboxId: string };

/** What a copy has moved. */
export type Copied = { files: number; bytes: number };

/** What is in a directory of the guest; undefined when there is none, or when it is something else. */
export async function guestDir(guest: Guest, path: string): Promise<DirEntry[] | undefined> {
  try {
    return await guest.client.listDir(guest.sandboxId, path, { signal: guest.context.signal });
  } catch (error) {
    const codes = ['not_found_file', 'not_a_directory', 'not_found'];
    if (codes.some((code) => isForkdError(error, code))) return undefined;
    throw error;
  }
}

/** The listing comes from the guest, which may be hostile: a name is one step down and nothing else. */
export function checkName(name: string): string {
  if (name === '' || name === '.' || name === '..' || /[/\0]/.test(name)) {
    throw new CommandError('bad_path', `the guest lists a file named ${JSON.stringify(name)}, which is not copied`);
  }
  return name;
}
