import { accessSync, constants, existsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import path from 'node:path';
import type { HostInfo } from '@forkd/api';
import { defaultDataDir } from '@forkd/sdk/local';
import { formatBytes } from '../../lib/text.ts';
import { fail, pass, warn, type Row } from './row.ts';

/** An image of the python recipe with its build takes about this much. */
const FREE_BYTES_WARN = 2 * 1024 ** 3;
const FREE_BYTES_FAIL = 256 * 1024 ** 2;

export async function checkDataDir(named: string | undefined, host: HostInfo | undefined): Promise<Row[]> {
  const directory = path.resolve(host?.data_dir ?? named ?? defaultDataDir());
  const existing = nearestExisting(directory);
  return [writableRow(directory, existing), await spaceRow(existing)];
}

function writableRow(directory: string, existing: string): Row {
  const detail = existing === directory ? directory : `${directory} (will be made)`;
  try {
    accessSync(existing, constants.W_OK | constants.X_OK);
    return pass('data_dir', detail);
  } catch {
    return fail('data_dir', `${detail} may not be written to`, 'choose another with --data-dir or FORKD_DATA_DIR');
  }
}

async function spaceRow(existing: string): Promise<Row> {
  const { bavail, bsize } = await statfs(existing);
  const freeBytes = bavail * bsize;
  const detail = `${formatBytes(freeBytes)} free`;
  const hint = 'remove snapshots with `forkd rmi`, or choose another directory with --data-dir';
  if (freeBytes < FREE_BYTES_FAIL) return fail('free_space', detail, hint);
  return freeBytes < FREE_BYTES_WARN ? warn('free_space', detail, hint) : pass('free_space', detail);
}

function nearestExisting(directory: string): string {
  let current = directory;
  while (!existsSync(current)) current = path.dirname(current);
  return current;
}
