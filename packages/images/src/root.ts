import { lstat, mkdir, readdir, rename, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { makeErofs } from './erofs.ts';
import { ImageError } from './errors.ts';
import { readJson, sha256, sha256File, withWorkDir, writeFileAtomic } from './files.ts';
import type { RootConfig, SourceContext } from './root-source.ts';
import { resolveSource } from './source.ts';

export interface RootImage {
  /** The path of a read-only EROFS image, named by its digest. */
  readonly erofs: string;
  readonly sizeBytes: number;
  /** `sha256:…` of the image file. */
  readonly digest: string;
  readonly config: RootConfig;
  /** What it was made from, in words. */
  readonly source: string;
}

export interface BuildRootOptions {
  /** A path (directory, OCI layout, tarball of `docker save`), the name of a built-in recipe, or a registry reference. */
  readonly source: string;
  readonly cacheDir: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (line: string) => void;
  /** Build again, though the cache has it. */
  readonly noCache?: boolean;
}

/** Raised when an equal source would give another image, so that older results are not found any more. */
const FORMAT = 1;
const MOUNT_POINTS = ['proc', 'sys', 'dev', 'run', 'tmp'];

/** Makes a root file system from any kind of source, or finds the one made before. */
export async function buildRoot(options: BuildRootOptions): Promise<RootImage> {
  const { cacheDir, signal, onProgress = () => {}, noCache = false } = options;
  signal?.throwIfAborted();
  const context: SourceContext = { signal, onProgress };
  const source = await resolveSource(options.source);
  onProgress(`root: ${source.description}`);
  const identity = await source.identify(context);
  const indexFile = identity === null ? null : indexPath(cacheDir, identity);
  const cached = indexFile === null || noCache ? null : await readCached(cacheDir, indexFile);
  if (cached !== null) {
    onProgress(`root: already made, ${path.basename(cached.erofs)}`);
    return { ...cached, source: source.description };
  }
  return withWorkDir(cacheDir, async (dir) => {
    const startedAtMs = Date.now();
    const tree = path.join(dir, 'root');
    const config = await source.unpack(tree, dir, context);
    await completeTree(tree, source.description);
    onProgress('root: packing');
    const made = path.join(dir, 'root.erofs');
    await makeErofs(tree, made, startedAtMs, signal);
    const digest = await sha256File(made, signal);
    const { size: sizeBytes } = await stat(made);
    const erofs = imagePath(cacheDir, digest);
    await mkdir(path.dirname(erofs), { recursive: true });
    await rename(made, erofs);
    if (indexFile !== null) await writeFileAtomic(indexFile, JSON.stringify({ digest, sizeBytes, config }));
    return { erofs, sizeBytes, digest, config, source: source.description };
  });
}

function indexPath(cacheDir: string, identity: string): string {
  return path.join(cacheDir, 'roots', 'by-source', `${sha256(`${FORMAT}\n${identity}`).replace(':', '-')}.json`);
}

function imagePath(cacheDir: string, digest: string): string {
  return path.join(cacheDir, 'roots', `${digest.replace(':', '-')}.erofs`);
}

/** An image whose size is not the one noted is as good as absent: somebody truncated it. */
async function readCached(cacheDir: string, indexFile: string): Promise<Omit<RootImage, 'source'> | null> {
  const index = await readJson<Omit<RootImage, 'source' | 'erofs'>>(indexFile).catch(() => null);
  if (index === null) return null;
  const erofs = imagePath(cacheDir, index.digest);
  const info = await stat(erofs).catch(() => null);
  return info?.size === index.sizeBytes ? { erofs, ...index } : null;
}

/** Refuses what no program could run in, and adds what a read-only root must have before it is booted. */
async function completeTree(tree: string, description: string): Promise<void> {
  const names = new Set(await readdir(tree));
  if (!['bin', 'usr', 'sbin', 'lib'].some((name) => names.has(name))) {
    const found = names.size === 0 ? 'it is empty' : `it has ${[...names].slice(0, 5).join(', ')}`;
    throw new ImageError(
      'not_a_rootfs',
      `The ${description} is not a root file system: ${found}, and neither /bin nor /usr.`,
      'Give the directory or image whose top level has /bin, /usr, /etc and so on.',
    );
  }
  for (const name of MOUNT_POINTS) {
    if (!names.has(name)) await mkdir(path.join(tree, name), { mode: 0o755 });
  }
  // Images come without it, since container engines mount their own; without it 'localhost' has no address.
  const etc = path.join(tree, 'etc');
  const hasEtc = (await lstat(etc).catch(() => null))?.isDirectory() ?? (await mkdir(etc), true);
  if (hasEtc && (await lstat(path.join(etc, 'hosts')).catch(() => null)) === null) {
    await writeFile(path.join(etc, 'hosts'), '127.0.0.1\tlocalhost\n::1\tlocalhost\n');
  }
}
