import os from 'node:os';
import { join, resolve } from 'node:path';
import { ForkdError } from '../errors.ts';

/** The size of sun_path, minus its terminating NUL byte. */
const SOCKET_PATH_BYTES_MAX = 107;

/** The data directory of this user: FORKD_DATA_DIR, or the standard directory of the system for such data. */
export function defaultDataDir(env: NodeJS.ProcessEnv = process.env): string {
  const named = env['FORKD_DATA_DIR'];
  if (named) return resolve(named);
  if (process.geteuid?.() === 0) return '/var/lib/forkd';
  const base = env['XDG_DATA_HOME'] || join(os.homedir(), '.local', 'share');
  return join(base, 'forkd');
}

export interface LocalPaths {
  dataDir: string;
  runDir: string;
  socket: string;
  log: string;
}

export function localPaths(options: { dataDir?: string | undefined; socket?: string | undefined } = {}): LocalPaths {
  const dataDir = resolve(options.dataDir ?? defaultDataDir());
  const runDir = join(dataDir, 'run');
  const socket = resolve(options.socket ?? join(runDir, 'controller.sock'));
  if (Buffer.byteLength(socket) > SOCKET_PATH_BYTES_MAX) {
    throw new ForkdError('bad_request', `The socket path ${socket} is longer than ${SOCKET_PATH_BYTES_MAX} bytes.`, {
      hint: 'Choose a shorter data directory with --data-dir or FORKD_DATA_DIR.',
    });
  }
  return { dataDir, runDir, socket, log: join(runDir, 'controller.log') };
}
