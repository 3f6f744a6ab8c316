import { existsSync } from 'node:fs';
import { access, constants } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ApiError } from '@forkd/api';

/** Paths of the native programs that the controller drives. */
export interface Binaries {
  pager: string;
  disk: string;
  shim: string;
  jail: string;
  agent: string;
  net: string;
}

const HOST_BUILD = 'target/release';
const GUEST_BUILD = 'target/guest/x86_64-unknown-linux-gnu/release';

/** Each program: the variable that names another file, the name of its own file, and the directory of its build. */
const programs = {
  pager: { variable: 'FORKD_PAGER_BIN', name: 'forkd-pager', build: HOST_BUILD },
  disk: { variable: 'FORKD_DISK_BIN', name: 'forkd-disk', build: HOST_BUILD },
  shim: { variable: 'FORKD_SHIM', name: 'libforkd_shim.so', build: HOST_BUILD },
  jail: { variable: 'FORKD_JAIL_BIN', name: 'forkd-jail', build: HOST_BUILD },
  net: { variable: 'FORKD_NET_BIN', name: 'forkd-net', build: HOST_BUILD },
  agent: { variable: 'FORKD_AGENT_BIN', name: 'forkd-agent', build: GUEST_BUILD },
} as const satisfies Record<keyof Binaries, object>;

/** A native program, as `forkd-controller probe programs` prints it. */
export interface NativeProgram {
  file: string;
  /** The environment variable that names another file. */
  variable: string;
  /** The checkout that builds the file; null for an installed file, and for a file that the variable names. */
  checkout: string | null;
}

/** Bundled or not, this module runs from a directory directly below its package. */
const PACKAGE = resolve(dirname(fileURLToPath(import.meta.url)), '..');
/** An installed package carries the programs. In a checkout, the build directory has them. */
const INSTALLED = join(PACKAGE, 'native');
const CHECKOUT = resolve(PACKAGE, '../..');

/** The place of each program: as its environment variable says, else as installed, else as built in this checkout. */
export function describeBinaries(env: NodeJS.ProcessEnv = process.env): Record<keyof Binaries, NativeProgram> {
  const isInstalled = existsSync(INSTALLED);
  const find = ({ variable, name, build }: (typeof programs)[keyof Binaries]): NativeProgram => {
    const named = env[variable];
    if (named) return { file: resolve(CHECKOUT, named), variable, checkout: null };
    if (isInstalled) return { file: join(INSTALLED, name), variable, checkout: null };
    return { file: join(CHECKOUT, build, name), variable, checkout: CHECKOUT };
  };
  const { pager, disk, shim, jail, net, agent } = programs;
  return {
    pager: find(pager),
    disk: find(disk),
    shim: find(shim),
    jail: find(jail),
    net: find(net),
    agent: find(agent),
  };
}

export function locateBinaries(env: NodeJS.ProcessEnv = process.env): Binaries {
  const { pager, disk, shim, jail, net, agent } = describeBinaries(env);
  return { pager: pager.file, disk: disk.file, shim: shim.file, jail: jail.file, net: net.file, agent: agent.file };
}

/** Throws `engine_missing` unless the program is there. */
export async function requireBinary(binaries: Binaries, which: keyof Binaries): Promise<string> {
  const path = binaries[which];
  try {
    await access(path, constants.R_OK);
    return path;
  } catch (error) {
    const { variable } = programs[which];
    throw new ApiError('engine_missing', `The program ${path} is missing.`, {
      hint: `Install forkd again (in a checkout: \`npm run build\`), or name another file with ${variable}.`,
      cause: error,
    });
  }
}
