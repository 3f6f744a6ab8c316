import type { DirEntry } from '@forkd/api';
import { CodedError } from '@forkd/api/constants';
import { isForkdError, type ForkdClient } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { reportOf } from '../lib/errors.ts';

/** The sandbox that is copied to or from. */
export interface Guest {
  context: Context;
  client: ForkdClient;
  sandboxId: string;
}

/** The totals of a copy. */
export interface Copied {
  files: number;
  bytes: number;
  /** Number of files and directories that could not be copied. */
  failed: number;
}

/** Errors that concern one file or directory, in the guest or here. Any other error ends the copy. */
const codesOfOneEntry = [
  'bad_path',
  'directory_not_empty',
  'is_a_directory',
  'not_a_directory',
  'not_a_file',
  'not_found_file',
  'permission_denied',
  'read_only',
  'stream_cut',
  'too_many_entries',
  'EACCES',
  'EEXIST',
  'EILSEQ',
  'EINVAL',
  'EISDIR',
  'ELOOP',
  'ENAMETOOLONG',
  'ENOENT',
  'ENOTDIR',
  'ENOTEMPTY',
  'EPERM',
];

/** Copies one entry of a directory. If it cannot be copied, says so and continues: the exit code has it at the end. */
export async function attempt(guest: Guest, copied: Copied, copyEntry: () => Promise<void>): Promise<void> {
  try {
    await copyEntry();
  } catch (error) {
    const { code, error: sentence, hint } = reportOf(error);
    if (!codesOfOneEntry.includes(code)) throw error;
    copied.failed += 1;
    guest.context.out.warn(error instanceof CodedError && hint !== undefined ? `${sentence} ${hint}` : sentence);
  }
}

/** Lists a directory of the guest; undefined if the path does not exist or is not a directory. */
export async function guestDir(guest: Guest, path: string): Promise<DirEntry[] | undefined> {
  try {
    return await guest.client.listDir(guest.sandboxId, path, { signal: guest.context.signal });
  } catch (error) {
    const codes = ['not_found_file', 'not_a_directory', 'not_found'];
    if (codes.some((code) => isForkdError(error, code))) return undefined;
    throw error;
  }
}

/** Rejects names that are not a plain file name. The listing comes from the guest, which may be hostile. */
export function checkName(name: string): string {
  if (name === '' || name === '.' || name === '..' || /[/\0]/.test(name)) {
    throw new CodedError('bad_path', `The guest lists a file named ${JSON.stringify(name)}, which is not copied.`);
  }
  return name;
}

/** Refuses a symbolic link to a directory that is being copied: the copy would never end. */
export function assertNoLoop(link: string, directory: string, within: readonly string[]): void {
  if (!within.includes(directory)) return;
  throw new CodedError('bad_path', `${link} is a symbolic link to ${directory}, which contains it: it is not copied.`);
}
