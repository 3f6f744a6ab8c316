import { chmod, copyFile, mkdir, readFile, symlink } from 'node:fs/promises';
import path from 'node:path';
import { isStaticExecutable } from './elf.ts';
import { ImageError, isErrno } from './errors.ts';
import { sha256 } from './files.ts';
import type { RootConfig, RootSource } from './root-source.ts';
import { missingProgram, run } from './run.ts';

const BUSYBOX = '/bin/busybox';

/** This machine's static busybox with a link for each of its applets. */
export function busyboxSource(name: string, config: RootConfig): RootSource {
  return {
    description: `recipe ${name} (static busybox of this machine)`,
    identify: async () => `busybox ${sha256(await readBusybox())} ${JSON.stringify(config)}`,
    async unpack(tree, _dir, { signal }) {
      await mkdir(path.join(tree, 'bin'), { recursive: true });
      const program = path.join(tree, 'bin/busybox');
      await copyFile(BUSYBOX, program);
      await chmod(program, 0o755);
      const applets = (await run(program, ['--list-full'], { signal })).toString().split('\n').filter(Boolean);
      for (const applet of applets.filter((file) => file !== 'bin/busybox')) {
        await mkdir(path.join(tree, path.dirname(applet)), { recursive: true });
        await symlink('/bin/busybox', path.join(tree, applet));
      }
      await mkdir(path.join(tree, 'root'), { mode: 0o700 });
      return config;
    },
  };
}

async function readBusybox(): Promise<Buffer> {
  const program = await readFile(BUSYBOX).catch((error: unknown) => {
    throw isErrno(error, 'ENOENT') ? missingProgram('busybox') : error;
  });
  if (isStaticExecutable(program)) return program;
  throw new ImageError(
    'missing_program',
    `${BUSYBOX} needs shared libraries, and a root of nothing else has none.`,
    'Install the static one: apt-get install --no-install-recommends busybox-static',
  );
}
