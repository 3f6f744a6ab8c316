import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { readJson, sha256 } from './files.ts';
import { run } from './run.ts';

export interface Descriptor {
  readonly mediaType?: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

interface Manifest {
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

interface Index {
  readonly manifests: readonly Descriptor[];
}

export function blobPath(layout: string, digest: string): string {
  return path.join(layout, 'blobs', ...digest.split(':'));
}

/**
 * Rewrites the zstd layers of a layout's only image as gzip, the only compression that umoci reads; skopeo copies them
 * as they are, whatever it is told. The layers' content and so the config's list of digests stay the same.
 */
export async function gzipLayers(layout: string, dir: string, signal: AbortSignal | undefined): Promise<void> {
  const indexFile = path.join(layout, 'index.json');
  const index = await readJson<Index>(indexFile);
  const image = index.manifests[0]!;
  const manifest = await readJson<Manifest>(blobPath(layout, image.digest));
  if (!manifest.layers.some(isZstd)) return;
  const layers: Descriptor[] = [];
  for (const layer of manifest.layers) layers.push(isZstd(layer) ? await toGzip(layout, layer, dir, signal) : layer);
  const text = JSON.stringify({ ...manifest, layers });
  const digest = sha256(text);
  await writeFile(blobPath(layout, digest), text);
  await writeFile(
    indexFile,
    JSON.stringify({ ...index, manifests: [{ ...image, digest, size: Buffer.byteLength(text) }] }),
  );
}

function isZstd(layer: Descriptor): boolean {
  return layer.mediaType?.endsWith('+zstd') ?? false;
}

async function toGzip(
  layout: string,
  layer: Descriptor,
  dir: string,
  signal: AbortSignal | undefined,
): Promise<Descriptor> {
  const plain = path.join(dir, 'layer.tar');
  const packed = path.join(dir, 'layer.tar.gz');
  await run('zstd', ['-dqf', blobPath(layout, layer.digest), '-o', plain], { signal });
  const hash = createHash('sha256');
  const hashing = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      done(null, chunk);
    },
  });
  await pipeline(createReadStream(plain), createGzip({ level: 1 }), hashing, createWriteStream(packed), { signal });
  await rm(plain);
  const digest = `sha256:${hash.digest('hex')}`;
  const { size } = await stat(packed);
  await rename(packed, blobPath(layout, digest));
  return { mediaType: layer.mediaType!.replace(/\+zstd$/, '+gzip'), digest, size };
}
