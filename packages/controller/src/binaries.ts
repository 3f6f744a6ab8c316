import { access, constants } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { ApiError } from '@forkd/api';

/** The native programs that the controller drives. */
export interface Binaries {
  pager: string;
  shim: string;
  jail: string;
  agent: string;
}

const built = {
  pager: { env: 'FORKD_PAGER_BIN', path: 'target/release/forkd-pager' },
  shim: { env: 'FORKD_SHIM', path: 'target/release/libforkd_shim.so' },
  jail: { env: 'FORKD_JAIL_BIN', path: 'target/release/forkd-jail' },
  agent: { env: 'FORKD_AGENT_BIN', path: 'target/guest/x86_64-unknown-linux-gnu/release/forkd-agent' },
} as const;

/** Where they are: an environment variable each, else where the build of this workspace puts them. */
export function locateBinaries(env: NodeJS.ProcessEnv = process.env): Binaries {
  const workspace = resolve(dirname(fileURLToPath(import.meta.url)), '../../..');
  const find = ({ env: name, path }: { env: string; path: string }) => resolve(workspace, env[name] || path);
  return { pager: find(built.pager), shim: find(built.shim), jail: find(built.jail), agent: find(built.agent) };
}

/** Throws `engine_missing` unless the program is there. */
export async function requireBinary(binaries: Binaries, which: keyof Binaries): Promise<string> {
  const path = binaries[which];
  try {
    await access(path, constants.R_OK);
    return path;
  } catch (error) {
    throw new ApiError('engine_missing', `${path} is not there: it has not been built.`, {
      hint: `'npm run quickstart' builds it, or name another with ${built[which].env}.`,
      cause: error,
    });
  }
}
