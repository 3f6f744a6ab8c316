import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Blob } from './digest.ts';
import { StoreError, storeFailure } from './errors.ts';
import { type Complain, Fields } from './fields.ts';
import { readCapped, removeFile, syncDirectory, writeFileAtomic } from './files.ts';
import { limits } from './limits.ts';
import { mediaTypes, parseJson, readDescriptor, tagPattern } from './manifest.ts';

/** The version of the OCI image layout. */
const LAYOUT_VERSION = '1.0.0';
const TAG_ANNOTATION = 'org.opencontainers.image.ref.name';

/** A snapshot's line in `index.json`. */
export interface IndexEntry {
  tag: string;
  manifest: Blob;
}

/** The directories of a store. */
export interface Paths {
  root: string;
  blobs: string;
  ingest: string;
  index: string;
  /** Holds nothing: its blocks are what a removal needs on a full file system. */
  reserve: string;
}

export function pathsOf(root: string): Paths {
  return {
    root,
    blobs: join(root, 'blobs', 'sha256'),
    ingest: join(root, 'ingest'),
    index: join(root, 'index.json'),
    reserve: join(root, '.reserve'),
  };
}

/** Makes the layout where there is none, refuses one that this version does not know. */
export async function openLayout(paths: Paths): Promise<void> {
  await mkdir(paths.blobs, { recursive: true, mode: 0o700 });
  await mkdir(paths.ingest, { recursive: true, mode: 0o700 });
  const file = join(paths.root, 'oci-layout');
  const refuse: Complain = (path, problem) =>
    new StoreError('unsupported_format', `The store ${paths.root}: oci-layout ${path} ${problem}.`, {
      hint: 'Start with another data directory, or with the version of forkd that made this one.',
    });
  const bytes = await readCapped(file, limits.layoutBytesMax, () => refuse('', 'is too long'));
  if (bytes === null) {
    await refuseForeign(paths, refuse);
    await writeFileAtomic(file, `${JSON.stringify({ imageLayoutVersion: LAYOUT_VERSION })}\n`, { mode: 0o644 });
  } else {
    new Fields(parseJson(bytes, refuse), '', refuse).literal('imageLayoutVersion', LAYOUT_VERSION);
  }
  if ((await readCapped(paths.index, limits.indexBytesMax, () => tooLong(paths))) === null) {
    await writeIndex(paths, []);
  }
  await removeLeftovers(paths);
  await syncDirectory(paths.root);
}

/** A directory with an index but without `oci-layout` is not ours to write into. */
async function refuseForeign(paths: Paths, refuse: Complain): Promise<void> {
  const names = await readdir(paths.root);
  if (names.includes('index.json')) throw refuse('', 'is missing beside an index.json');
}

/** Reads `index.json`. Whatever is wrong in it is named. */
export async function readIndex(paths: Paths): Promise<IndexEntry[]> {
  const complain = complainOf(paths);
  const bytes = await readCapped(paths.index, limits.indexBytesMax, () => tooLong(paths));
  if (bytes === null) throw complain('', 'is missing');
  const fields = new Fields(parseJson(bytes, complain), '', complain);
  fields.literal('schemaVersion', 2);
  const seen = new Set<string>();
  return fields.objects('manifests', limits.snapshotsMax).map((entry) => {
    entry.literal('mediaType', mediaTypes.manifest);
    const manifest = readDescriptor(entry, limits.manifestBytesMax);
    const tag = entry.object('annotations').string(TAG_ANNOTATION, { pattern: tagPattern });
    if (seen.has(tag)) throw entry.fail('annotations', `names the tag '${tag}' a second time`);
    seen.add(tag);
    return { tag, manifest };
  });
}

/** Differs whenever the index has been written, which replaces its file. */
export async function indexStamp({ index }: Paths): Promise<string> {
  const found = await stat(index, { bigint: true }).catch(() => null);
  return found === null ? 'gone' : `${found.ino}:${found.size}:${found.mtimeNs}:${found.ctimeNs}`;
}

export async function writeIndex(paths: Paths, entries: readonly IndexEntry[]): Promise<void> {
  const index = {
    schemaVersion: 2,
    mediaType: mediaTypes.index,
    manifests: entries.map(({ tag, manifest }) => ({
      mediaType: mediaTypes.manifest,
      digest: manifest.digest,
      size: manifest.size,
      artifactType: mediaTypes.artifact,
      annotations: { [TAG_ANNOTATION]: tag },
    })),
  };
  await writeFileAtomic(paths.index, `${JSON.stringify(index, null, 2)}\n`, { mode: 0o644 });
}

/** Sets blocks aside where there are any. Without them a full store can only be freed by other means. */
export async function refillReserve(paths: Paths): Promise<void> {
  if ((await stat(paths.reserve).catch(() => null))?.size === limits.reserveBytes) return;
  try {
    await writeFileAtomic(paths.reserve, Buffer.alloc(limits.reserveBytes));
  } catch (error) {
    if (storeFailure(error, '').code !== 'disk_full') throw error;
  }
}

/** Runs a task that frees space once more, with the reserve given up, when it failed on a full file system. */
export async function withReserve(paths: Paths, task: () => Promise<void>): Promise<void> {
  try {
    await task();
  } catch (error) {
    if (storeFailure(error, '').code !== 'disk_full' || !(await removeFile(paths.reserve))) throw error;
    await task();
  }
}

/** A crash between writing a temporary file and renaming it leaves one beside `index.json`. */
async function removeLeftovers(paths: Paths): Promise<void> {
  for (const name of await readdir(paths.root)) {
    if (name.startsWith('.') && name.endsWith('.tmp')) await removeFile(join(paths.root, name));
  }
}

function complainOf(paths: Paths): Complain {
  return (path, problem) =>
    new StoreError('corrupt_index', `The store's ${paths.index}: ${path === '' ? 'it' : path} ${problem}.`, {
      hint: 'Restore that file from a backup; the blobs beside it are untouched.',
    });
}

function tooLong(paths: Paths): StoreError {
  return new StoreError('corrupt_index', `The store's ${paths.index} is longer than ${limits.indexBytesMax} bytes.`);
}
