import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { isRunning, readStartTicks } from '@forkd/engine';
import { readCapped, removeFile, writeFileAtomic } from '@forkd/store';
import { sleep } from '../deadline.ts';
import { limits } from '../limits.ts';
import type { DataPaths } from '../paths.ts';
import { lockFile } from './file-lock.ts';

const LOCK_POLL_MS = 100;

/** A directory to lock, and the directory of its pid file. */
type Locked = Pick<DataPaths, 'root' | 'run'>;

/** The controller that holds a data directory. */
interface Holder {
  pid: number;
  start_ticks: number;
  socket: string;
}

/** Another controller holds the data directory. */
export class LockedError extends Error {
  override readonly name = 'LockedError';
}

/**
 * Makes this process the only controller of a data directory. Only users who may write there can open the locked file. The
 * lock ends with the process, however that ends. The file beside it names the holder, for messages only.
 */
export async function lockDataDir(launcher: string, paths: Locked, socket: string): Promise<() => Promise<void>> {
  const file = join(paths.run, 'controller.json');
  const lock = await takeLock(launcher, paths, file);
  try {
    const startTicks = (await readStartTicks(process.pid)) ?? 0;
    const self: Holder = { pid: process.pid, start_ticks: startTicks, socket };
    await writeFileAtomic(file, `${JSON.stringify(self)}\n`);
  } catch (error) {
    await lock.close();
    throw error;
  }
  return async () => {
    await removeFile(file);
    await lock.close();
  };
}

async function takeLock(launcher: string, paths: Locked, file: string): Promise<FileHandle> {
  const path = join(paths.run, 'controller.lock');
  // The previous controller may be ending at this moment.
  for (let waitedMs = 0; ; waitedMs += LOCK_POLL_MS) {
    const lock = await lockFile(launcher, path);
    if (lock !== null) return lock;
    if (waitedMs >= limits.lockWaitMs) throw lockedBy(paths, await readHolder(file));
    await sleep(LOCK_POLL_MS);
  }
}

/** Returns `null` for a file that cannot be read, or that names a process that is gone. */
async function readHolder(file: string): Promise<Holder | null> {
  const bytes = await readCapped(file, 4096, () => new Error('too long')).catch(() => null);
  if (bytes === null) return null;
  try {
    const value = JSON.parse(bytes.toString('utf8')) as Partial<Holder> | null;
    const { pid, start_ticks, socket } = value ?? {};
    if (typeof pid !== 'number' || typeof start_ticks !== 'number' || typeof socket !== 'string') return null;
    return (await isRunning({ pid, startTicks: start_ticks })) ? { pid, start_ticks, socket } : null;
  } catch {
    return null;
  }
}

function lockedBy(paths: Locked, holder: Holder | null): LockedError {
  const who = holder === null ? 'Another controller' : `The controller with pid ${holder.pid} (on ${holder.socket})`;
  const other = 'Use that one, or give another with --data-dir and --snapshot-root.';
  return new LockedError(`${who} has the directory ${paths.root}. ${other}`);
}
