import { lstat, mkdir, readlink } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { ImageError } from './errors.ts';

/** Linux follows as many. */
const LINKS_MAX = 40;

/**
 * The place of `path`, a path inside a root, in the `tree` that holds this root here. Links are followed inside the tree, never
 * out of it. Null if nothing is there.
 */
export async function findInTree(tree: string, path: string): Promise<string | null> {
  return walk(tree, path, async () => null);
}

/** The place of the directory `path` in `tree`. What is missing of it is made. */
export async function makeInTree(tree: string, path: string): Promise<string> {
  const place = await walk(tree, path, async (missing) => {
    await mkdir(missing, { mode: 0o755 });
    return missing;
  });
  if (place !== null && (await lstat(place)).isDirectory()) return place;
  throw notADirectory(path);
}

/** Follows `path` one name at a time. Where nothing is, `onMissing` returns the place to continue at, or null. */
async function walk(
  tree: string,
  path: string,
  onMissing: (place: string) => Promise<string | null>,
): Promise<string | null> {
  const names = posix.resolve('/', path).split('/').filter(Boolean);
  let [place, links] = [tree, 0];
  for (let name = names.shift(); name !== undefined; name = names.shift()) {
    if (name === '.') continue;
    if (name === '..') {
      place = place === tree ? tree : dirname(place);
      continue;
    }
    const next = join(place, name);
    const info = await lstat(next).catch(() => null);
    if (info === null) {
      const made = await onMissing(next);
      if (made === null) return null;
      place = made;
    } else if (info.isSymbolicLink()) {
      links += 1;
      if (links > LINKS_MAX) throw new ImageError('bad_addition', `The path ${path} leads through links in a circle.`);
      const target = await readlink(next);
      if (target.startsWith('/')) place = tree;
      names.unshift(...target.split('/').filter(Boolean));
    } else if (names.length > 0 && !info.isDirectory()) {
      throw notADirectory(path);
    } else {
      place = next;
    }
  }
  return place;
}

function notADirectory(path: string): ImageError {
  return new ImageError('bad_addition', `The path ${path} leads through a file of the image.`, {
    hint: 'Choose another destination.',
  });
}
