import { lstat, readdir } from 'node:fs/promises';
import path from 'node:path';
import { run } from './run.ts';

/** Fixed, since it would otherwise be random and make every image differ. */
const UUID = '666f726b-6400-4000-8000-726f6f746673';

/**
 * Makes an image of a tree; equal trees give equal images, byte for byte.
 *
 * Times are kept and not zeroed (`-T0`), because Python ignores its compiled files when a source's time is not the one
 * that it was compiled at. What was written after `startedAtMs`, by the build and not by its input, gets the time of the
 * newest file of the input.
 */
export async function makeErofs(tree: string, image: string, startedAtMs: number, signal?: AbortSignal): Promise<void> {
  const epoch = Math.floor((await newestMtimeMs(tree, startedAtMs)) / 1000);
  await run('mkfs.erofs', ['--quiet', '-zlz4', '-U', UUID, image, tree], {
    signal,
    env: { SOURCE_DATE_EPOCH: String(epoch) },
  });
}

/** Directories do not count: unpacking a layer sets the times of those that the layer does not list. */
async function newestMtimeMs(directory: string, beforeMs: number): Promise<number> {
  let newest = 0;
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const file = path.join(directory, entry.name);
    const mtimeMs = entry.isDirectory() ? await newestMtimeMs(file, beforeMs) : (await lstat(file)).mtimeMs;
    if (mtimeMs < beforeMs) newest = Math.max(newest, mtimeMs);
  }
  return newest;
}
