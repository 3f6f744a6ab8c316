import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { Blob, Digest } from '@forkd/api';
import { DIGEST_PATTERN } from '@forkd/api/constants';

export type { Blob, Digest };

export const digestPattern = new RegExp(DIGEST_PATTERN);

export function isDigest(value: unknown): value is Digest {
  return typeof value === 'string' && digestPattern.test(value);
}

/** Throws a `TypeError` unless `value` is a digest: for values that crossed a boundary already checked. */
export function asDigest(value: string): Digest {
  if (!isDigest(value)) throw new TypeError(`${JSON.stringify(value)} is not a sha256 digest`);
  return value;
}

export function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

export function digestOfBytes(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** Reads a whole file, streaming. */
export async function digestOfFile(path: string, signal?: AbortSignal): Promise<Blob> {
  const hash = createHash('sha256');
  let size = 0;
  const source = createReadStream(path, { highWaterMark: 1024 * 1024 });
  source.on('data', (chunk) => {
    size += chunk.length;
  });
  await pipeline(source, hash, signal === undefined ? {} : { signal });
  return { digest: `sha256:${hash.digest('hex')}`, size };
}
