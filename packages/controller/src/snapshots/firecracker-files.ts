import { isAbsolute, normalize } from 'node:path';

import { ApiError } from '@forkd/api';
import { errnoOf } from '@forkd/store';
import { Type, type Static } from 'typebox';

import { messageOf } from '../errors.ts';
import { BlobSchema, ImageSchema, MachineSchema } from '../sandboxes/record.ts';

/** The files of a directory that a snapshot is exported to. Firecracker knows the first three. */
export const FILES = {
  vmstate: 'vmstate',
  memory: 'memory.bin',
  /** As the device state names it, relative to where Firecracker is started. */
  rootImage: 'root.img',
  /** What an import needs besides. */
  description: 'forkd.json',
} as const;

/** `forkd.json`. */
export const Description = Type.Object({
  format: Type.Literal('forkd-firecracker'),
  version: Type.Literal(1),
  machine: MachineSchema,
  vmstate: BlobSchema,
  root_image: BlobSchema,
  image: ImageSchema,
  source: Type.String(),
  python: Type.Boolean(),
});
export type Description = Static<typeof Description>;

/** A path of the host as the caller gave it. What is relative is relative to nothing that the caller knows. */
export function hostPath(path: string): string {
  if (isAbsolute(path)) return normalize(path);
  throw new ApiError('bad_path', `The path ${path} is not absolute.`);
}

/** What went wrong with a file of the caller's. */
export function fileProblem(doing: string, error: unknown): unknown {
  const errno = errnoOf(error) ?? '';
  // Codes of our own are not spelled so.
  if (!/^E[A-Z0-9]+$/.test(errno)) return error;
  const code = errno === 'ENOSPC' || errno === 'EDQUOT' ? 'disk_full' : 'bad_path';
  return new ApiError(code, `${doing}: ${messageOf(error)}.`, { cause: error });
}
