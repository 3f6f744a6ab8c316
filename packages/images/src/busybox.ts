import { chmod, copyFile, mkdir, readFile, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Image } from '@forkd/api';
import { isStaticExecutable } from './elf.ts';
import { ImageError, isErrno } from './errors.ts';
import { sha256 } from './files.ts';
import type { RootSource } from './root-source.ts';
import { missingProgram, run } from './run.ts';

const BUSYBOX = '/bin/busybox';

/** The static busybox of this machine, with a link for each of its applets. */
export function busyboxSource(name: string, config: Image): RootSource {
  return {
    description: `recipe ${name} (static busybox of this machine)`,
    identify: async () => `busybox ${sha256(await readBusybox())} ${JSON.stringify(config)}`,
    async unpack(tree, _dir, { signal }) {
      await mkdir(join(tree, 'bin'), { recursive: true });
      const program = join(tree, 'bin/busybox');
      await copyFile(BUSYBOX, program);
      await chmod(program, 0o755);
      const applets = (await run(program, ['--list-full'], { signal })).toString().split('\n').filter(Boolean);
      for (const applet of applets.filter((file) => file !== 'bin/busybox')) {
        await mkdir(join(tree, dirname(applet)), { recursive: true });
        await symlink('/bin/busybox', join(tree, applet));
      }
      await mkdir(join(tree, 'root'), { mode: 0o700 });
      return config;
    },
  };
}

async function readBusybox(): Promise<Buffer> {
  const program = await readFile(BUSYBOX).catch((error: unknown) => {
    throw isErrno(error, 'ENOENT') ? missingProgram('busybox') : error;
  });
  if (isStaticExecutable(program)) return program;
  throw new ImageError('missing_program', `${BUSYBOX} needs shared libraries, and a root of nothing else has none.`, {
    hint: 'Install the static one with `apt-get install --no-install-recommends busybox-static`.',
  });
}
