import { CodedError, messageOf } from '@forkd/api/constants';

/** Stable codes of what can go wrong in the store. */
export type StoreErrorCode =
  | 'unknown_snapshot'
  | 'snapshot_exists'
  | 'unknown_blob'
  | 'corrupt_blob'
  | 'corrupt_manifest'
  | 'corrupt_index'
  | 'unsupported_format'
  | 'outside_root'
  | 'disk_full'
  | 'io';

/** A failure of the store: a stable code, one sentence, and what to do about it where that is known. */
export class StoreError extends CodedError<StoreErrorCode> {
  override readonly name = 'StoreError';
}

/** The `code` of a system call's failure, such as `ENOENT`. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** Turns a failure of the file system into one of the store. `doing` continues the sentence "… while". */
export function storeFailure(error: unknown, doing: string): StoreError {
  if (error instanceof StoreError) return error;
  const errno = errnoOf(error);
  if (errno === 'ENOSPC' || errno === 'EDQUOT') {
    return new StoreError('disk_full', `The data directory's file system is full: ${errno} while ${doing}.`, {
      hint: 'Remove snapshots that are not needed (forkd rmi TAG), or free space on that file system.',
      cause: error,
    });
  }
  const reason = messageOf(error);
  return new StoreError('io', `The store failed while ${doing}: ${reason}`, { cause: error });
}
