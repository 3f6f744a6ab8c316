import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

/** The layout of the data directory. */
export interface DataPaths {
  root: string;
  store: string;
  cache: string;
  /** A directory for each sandbox, named by its id. */
  sandboxes: string;
  /** A file for each workspace. */
  workspaces: string;
  /** A file for each sandbox that ended lately. */
  ended: string;
  /** Replies to requests with an idempotency key. */
  replies: string;
  /** The secret from which the access tokens of E2B's clients are made. */
  e2bSecret: string;
  /** VMMs that wait for their VM, with a directory for each. */
  pool: string;
  /** Files for Firecracker: kernels as it loads them, and the memory of snapshots. */
  firecracker: string;
  /** Sockets and the files that name running processes. */
  run: string;
}

/** `store` may be elsewhere, such as on another disk. */
export function dataPaths(root: string, store?: string): DataPaths {
  const at = (name: string) => join(root, name);
  return {
    root,
    store: store ?? at('store'),
    cache: at('cache'),
    sandboxes: at('sandboxes'),
    workspaces: at('workspaces'),
    ended: at('ended'),
    replies: at('replies'),
    e2bSecret: at('e2b-secret'),
    pool: at('pool'),
    firecracker: at('firecracker'),
    run: at('run'),
  };
}

/** `FORKD_DATA_DIR`, else `/var/lib/forkd` for root and `$XDG_DATA_HOME/forkd` for others. */
export function defaultDataDir(env: NodeJS.ProcessEnv = process.env): string {
  if (env['FORKD_DATA_DIR']) return resolve(env['FORKD_DATA_DIR']);
  if (process.geteuid?.() === 0) return '/var/lib/forkd';
  return join(env['XDG_DATA_HOME'] || join(homedir(), '.local', 'share'), 'forkd');
}

/** Only the owner has access: snapshots hold everything that was in the memory of a guest. */
export async function makeDataPaths(paths: DataPaths): Promise<void> {
  for (const path of [paths.root, paths.store, paths.cache, paths.sandboxes, paths.run]) {
    await mkdir(path, { recursive: true, mode: 0o700 });
  }
}
