import os from 'node:os';
import path from 'node:path';
import { ForkdError } from '../errors.ts';

/** What sun_path holds, less the byte that ends it. */
const SOCKET_PATH_BYTES_MAX = 107;

/** Where this user's snapshots, images and controller live: FORKD_DATA_DIR, or the place that the system has for it. */
export function defaultDataDir(env: NodeJS.ProcessEnv = process.env): string {
  const named = env['FORKD_DATA_DIR'];
  if (named) return path.resolve(named);
  if (process.geteuid?.() === 0) return '/var/lib/forkd';
  const base = env['XDG_DATA_HOME'] || path.join(os.homedir(), '.local', 'share');
  return path.join(base, 'forkd');
}

export type LocalPaths = { dataDir: string; runDir: string; socket: string; log: string };

export function localPaths(options: { dataDir?: string | undefined; socket?: string | undefined } = {}): LocalPaths {
  const dataDir = path.resolve(options.dataDir ?? defaultDataDir());
  const runDir = path.join(dataDir, 'run');
  const socket = path.resolve(options.socket ?? path.join(runDir, 'controller.sock'));
  if (Buffer.byteLength(socket) > SOCKET_PATH_BYTES_MAX) {
    throw new ForkdError('bad_request', `the socket path ${socket} is longer than ${SOCKET_PATH_BYTES_MAX} bytes`, {
      hint: 'choose a shorter data directory with --data-dir or FORKD_DATA_DIR',
    });
  }
  return { dataDir, runDir, socket, log: path.join(runDir, 'controller.log') };
}
