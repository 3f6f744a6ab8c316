import { lstat, mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Image } from '@forkd/api';
import { DIGEST_PATTERN } from '@forkd/api/constants';
import { addTo, type Additions, sortPackages, withApt } from './additions.ts';
import { makeErofs } from './erofs.ts';
import { publishFile, readJson, sha256, sha256File, withWorkDir, writeFileAtomic } from './files.ts';
import type { SourceContext } from './root-source.ts';
import { resolveSource } from './source.ts';
import { holds } from './verified.ts';

export interface RootImage {
  /** The path of a read-only EROFS image, named by its digest. */
  readonly erofs: string;
  readonly sizeBytes: number;
  /** `sha256:…` of the image file. */
  readonly digest: string;
  readonly config: Image;
  /** Source of the image, in words. */
  readonly source: string;
}

export interface BuildRootOptions {
  /** A path (directory, OCI layout, tarball), the name of a built-in recipe, or a registry reference. */
  readonly source: string;
  readonly cacheDir: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (line: string) => void;
  /** Packages and files that are added to those of the source. */
  readonly additions?: Additions;
  /** Build again, though the cache has it. */
  readonly noCache?: boolean;
}

/** Raised when an equal source would give another image, so that older results are not found any more. */
const FORMAT = 1;
const DIGEST = new RegExp(DIGEST_PATTERN);
const MOUNT_POINTS = ['proc', 'sys', 'dev', 'run', 'tmp'];

/** Makes a root file system from any kind of source, or finds the one made before. */
export async function buildRoot(options: BuildRootOptions): Promise<RootImage> {
  const { cacheDir, signal, onProgress = () => {}, noCache = false } = options;
  signal?.throwIfAborted();
  const context: SourceContext = { signal, onProgress };
  const { packages, copies } = options.additions ?? { packages: [], copies: [] };
  const { apt, pip } = sortPackages(packages);
  const source = withApt(await resolveSource(options.source), apt);
  onProgress(`root: ${source.description}`);
  const identity = await source.identify(context);
  // A package index and a copied file may change from one build to the next.
  const isAddedTo = pip.length + copies.length > 0;
  const indexFile = identity === null || isAddedTo ? null : indexPath(cacheDir, identity);
  const cached = indexFile === null || noCache ? null : await readCached({ cacheDir, indexFile, signal, onProgress });
  if (cached !== null) {
    onProgress(`root: already made, ${basename(cached.erofs)}`);
    return { ...cached, source: source.description };
  }
  return withWorkDir(cacheDir, async (dir) => {
    const startedAtMs = Date.now();
    const tree = join(dir, 'root');
    const config = await source.unpack(tree, dir, context);
    const { description } = source;
    await addTo(tree, pip, copies, { ...context, dir, cacheDir, description, workdir: config.workdir });
    await completeTree(tree);
    onProgress('root: packing');
    const made = join(dir, 'root.erofs');
    await makeErofs(tree, made, startedAtMs, signal);
    const digest = await sha256File(made, signal);
    const { size: sizeBytes } = await stat(made);
    const erofs = imagePath(cacheDir, digest);
    await publishFile(made, erofs);
    if (indexFile !== null) await writeFileAtomic(indexFile, JSON.stringify({ digest, sizeBytes, config }));
    return { erofs, sizeBytes, digest, config, source: source.description };
  });
}

function indexPath(cacheDir: string, identity: string): string {
  return join(cacheDir, 'roots', 'by-source', `${sha256(`${FORMAT}\n${identity}`).replace(':', '-')}.json`);
}

function imagePath(cacheDir: string, digest: string): string {
  return join(cacheDir, 'roots', `${digest.replace(':', '-')}.erofs`);
}

interface Lookup {
  readonly cacheDir: string;
  readonly indexFile: string;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: (line: string) => void;
}

/** An image that is not what was noted is as good as absent: a disk or a person has changed it. */
async function readCached({
  cacheDir,
  indexFile,
  signal,
  onProgress,
}: Lookup): Promise<Omit<RootImage, 'source'> | null> {
  const index = await readJson<Omit<RootImage, 'source' | 'erofs'>>(indexFile).catch(() => null);
  if (index === null || !DIGEST.test(index.digest)) return null;
  const erofs = imagePath(cacheDir, index.digest);
  const info = await stat(erofs).catch(() => null);
  if (info === null) return null;
  if (info.size === index.sizeBytes && (await holds(erofs, index.digest, signal))) return { erofs, ...index };
  onProgress(`root: ${basename(erofs)} has changed on disk, and is built again`);
  return null;
}

/** Adds what a read-only root must have before it is booted. A link at one of these places is left to the guest, whose root it is in. */
async function completeTree(tree: string): Promise<void> {
  const names = new Set(await readdir(tree));
  for (const name of MOUNT_POINTS) {
    if (!names.has(name)) await mkdir(join(tree, name), { mode: 0o755 });
  }
  // Images come without it, since container engines mount their own; without it 'localhost' has no address.
  const etc = join(tree, 'etc');
  const hasEtc = (await lstat(etc).catch(() => null))?.isDirectory() ?? (await mkdir(etc), true);
  if (hasEtc && (await lstat(join(etc, 'hosts')).catch(() => null)) === null) {
    await writeFile(join(etc, 'hosts'), '127.0.0.1\tlocalhost\n::1\tlocalhost\n');
  }
}
