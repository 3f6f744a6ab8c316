import { CodedError } from '@forkd/api/constants';

/** Error codes for programs. These strings are part of the interface and do not change. */
export type ImageErrorCode =
  | 'bad_addition'
  | 'bad_agent'
  | 'bad_image'
  | 'bad_kernel'
  | 'disk_full'
  | 'image_unavailable'
  | 'kernel_unavailable'
  | 'missing_program'
  | 'needs_root'
  | 'not_a_rootfs'
  | 'package_unavailable'
  | 'program_failed'
  | 'source_not_found'
  | 'unknown_recipe';

/** A failure that the user or the system can mend: `message` says what happened, `hint` what to do. */
export class ImageError extends CodedError<ImageErrorCode> {
  override readonly name = 'ImageError';
}

/** True for an error of Node's file system functions with this code, such as `ENOENT`. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}

export function diskFull(place: string, cause?: unknown): ImageError {
  return new ImageError('disk_full', `The disk that holds ${place} is full.`, {
    hint: "Free some space there, or keep forkd's data on another disk: FORKD_DATA_DIR.",
    cause,
  });
}

export function requireRoot(what: string): void {
  if (process.getuid?.() === 0) return;
  throw new ImageError('needs_root', `${what} needs root, since its files belong to several users.`, {
    hint: 'Run the same command as root, for instance with sudo.',
  });
}
