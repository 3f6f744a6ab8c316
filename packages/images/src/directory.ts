import { mkdir, realpath } from 'node:fs/promises';
import { dirname } from 'node:path';
import { refuseCache } from './copy-in.ts';
import type { RootSource } from './root-source.ts';
import { requireRootTree } from './root-tree.ts';
import { run } from './run.ts';

/** A tree that the user made. It is copied, so that what is added to it is added to the copy only; and it is never cached. */
export function directorySource(directory: string): RootSource {
  return {
    description: `directory ${directory}`,
    identify: async () => null,
    async unpack(tree, _dir, { signal }) {
      const from = await realpath(directory);
      await refuseCache(from, directory, dirname(tree));
      await mkdir(tree);
      await run('cp', ['--archive', '--one-file-system', '--reflink=auto', `${from}/.`, tree], { signal });
      await requireRootTree(tree, `directory ${directory}`);
      return { env: {}, workdir: '/', user: 'root', entrypoint: [], cmd: [] };
    },
  };
}
