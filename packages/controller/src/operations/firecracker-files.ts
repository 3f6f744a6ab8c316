import { isAbsolute, normalize } from 'node:path';
import { ApiError, Image, Machine, Refresh, Blob, Nullable, Safety } from '@forkd/api';
import { errnoOf } from '@forkd/store';
import { Type, type Static } from 'typebox';
import { messageOf } from '../errors.ts';

/** The files of a directory that a snapshot is exported to. Firecracker knows the first three. */
export const FILES = {
  vmstate: 'vmstate',
  memory: 'memory.bin',
  /** The name that the device state has for the root image, relative to where Firecracker is started. */
  rootImage: 'root.img',
  /** Everything else that an import needs. */
  description: 'forkd.json',
} as const;

/** `forkd.json`. */
export const Description = Type.Object({
  format: Type.Literal('forkd-firecracker'),
  version: Type.Literal(1),
  machine: Machine,
  vmstate: Blob,
  root_image: Blob,
  image: Image,
  source: Type.String(),
  python: Type.Boolean(),
  /** Absent in files of earlier versions. */
  refresh: Type.Optional(Nullable(Refresh)),
  /** Absent in files of earlier versions. */
  safety: Type.Optional(Safety),
});
export type Description = Static<typeof Description>;

/** A path of the host, which must be absolute: the caller does not know the working directory of the controller. */
export function hostPath(path: string): string {
  if (isAbsolute(path)) return normalize(path);
  throw new ApiError('bad_path', `The path ${path} is not absolute.`);
}

/** The error of a file that the caller named. */
export function fileProblem(doing: string, error: unknown): unknown {
  const errno = errnoOf(error) ?? '';
  // Only the codes of the operating system are spelled like this.
  if (!/^E[A-Z0-9]+$/.test(errno)) return error;
  const code = errno === 'ENOSPC' || errno === 'EDQUOT' ? 'disk_full' : 'bad_path';
  return new ApiError(code, `${doing}: ${messageOf(error)}.`, { cause: error });
}
