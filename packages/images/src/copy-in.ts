import { lstat, realpath, stat } from 'node:fs/promises';
import { basename, join, posix } from 'node:path';
import { ImageError } from './errors.ts';
import { run } from './run.ts';
import { findInTree, makeInTree } from './tree-path.ts';

/** Files to add to a root, as `COPY` of a Dockerfile adds them. */
export interface Copy {
  /** A file or a directory on this machine. */
  readonly from: string;
  /** A path inside the root. */
  readonly to: string;
}

/** The guest mounts its own file systems there, which would hide a copy. */
const HIDDEN = /^\/(dev|proc|sys|run)(\/|$)/;

/**
 * Copies a file, or the content of a directory, into `tree`. Modes, times and links are kept; the owner is this process's user. `to`
 * is a directory if it ends with a slash or is one, and is relative to `workdir`.
 */
export async function copyIn(
  tree: string,
  { from, to }: Copy,
  { workdir, cacheDir, signal }: { workdir: string; cacheDir: string; signal: AbortSignal | undefined },
): Promise<void> {
  const target = posix.resolve(workdir, to);
  if (HIDDEN.test(target)) {
    throw new ImageError('bad_addition', `A copy to ${target} would not be seen: a guest mounts its own files there.`, {
      hint: 'Choose a place outside of /dev, /proc, /sys and /run.',
    });
  }
  const info = await stat(from).catch(() => null);
  if (info === null) {
    throw new ImageError('source_not_found', `There is no ${from} to copy to ${target}.`, {
      hint: 'The path is one on the host of the controller.',
    });
  }
  if (!info.isDirectory() && !info.isFile()) {
    throw new ImageError('bad_addition', `${from} is neither a file nor a directory.`);
  }
  const source = await realpath(from);
  if (info.isDirectory()) await refuseCache(source, from, cacheDir);
  const place = info.isDirectory() ? await makeInTree(tree, target) : await placeOfFile(tree, target, to, from);
  const keep = ['--recursive', '--no-dereference', '--preserve=mode,timestamps,links', '--remove-destination'];
  await run('cp', [...keep, '--no-target-directory', '--one-file-system', '--reflink=auto', '--', source, place], {
    signal,
    onFailure: (failure) =>
      new ImageError('bad_addition', `${from} could not be copied to ${target}: ${failure.message}`, {
        hint: failure.hint,
        cause: failure.cause,
      }),
  });
}

/** The destination of a file: into the directory that `target` is, or to `target` itself. */
async function placeOfFile(tree: string, target: string, to: string, from: string): Promise<string> {
  const there = await findInTree(tree, target);
  const isDirectory = to.endsWith('/') || to === '' || (there !== null && (await lstat(there)).isDirectory());
  if (isDirectory) return join(await makeInTree(tree, target), basename(from));
  return join(await makeInTree(tree, posix.dirname(target)), posix.basename(target));
}

/** A directory that holds the cache would be copied into itself. */
export async function refuseCache(source: string, name: string, cacheDir: string): Promise<void> {
  if (!(await realpath(cacheDir)).startsWith(`${source === '/' ? '' : source}/`)) return;
  throw new ImageError(
    'not_a_rootfs',
    `The directory ${name} holds forkd's own cache, so it cannot be copied into it.`,
    { hint: "Keep forkd's data outside of that directory: FORKD_DATA_DIR." },
  );
}
