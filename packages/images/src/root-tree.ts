import { readdir } from 'node:fs/promises';
import { holdsRoot } from '@forkd/api/constants';
import { ImageError } from './errors.ts';

/** Refuses a tree whose top level is not that of a root: the user may have named another one than they meant. */
export async function requireRootTree(tree: string, description: string): Promise<void> {
  const names = await readdir(tree);
  if (holdsRoot(names)) return;
  const found = names.length === 0 ? 'it is empty' : `it has ${names.slice(0, 5).join(', ')}`;
  throw new ImageError(
    'not_a_rootfs',
    `The ${description} is not a root file system: ${found}, and neither /bin nor /usr.`,
    { hint: 'Give the directory or image whose top level has /bin, /usr, /etc and so on.' },
  );
}
