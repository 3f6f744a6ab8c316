import { createHash } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';

import { isRunning, readStartTicks } from '@forkd/engine';
import { errnoOf, readCapped, removeFile, writeFileAtomic } from '@forkd/store';

import { sleep } from '../deadline.ts';
import { limits } from '../limits.ts';
import type { DataPaths } from '../paths.ts';

/** A directory, and where its pid file goes. */
type Locked = Pick<DataPaths, 'root' | 'run'>;

/** Who holds a data directory. */
interface Holder {
  pid: number;
  start_ticks: number;
  socket: string;
}

/** The data directory is another controller's. */
export class LockedError extends Error {
  override readonly name = 'LockedError';
}

/**
 * Makes this process the only controller of a data directory. Two locks, because each has a hole: an abstract unix
 * socket is exclusive without a race and goes with its process, but only within a network namespace; the pid file
 * reaches further, and is checked against the start time of the process, so a stale one is known as such.
 */
export async function lockDataDir(paths: Locked, socket: string): Promise<() => Promise<void>> {
  const file = join(paths.run, 'controller.json');
  const server = await holdName(paths, file);
  try {
    const holder = await readHolder(file);
    if (
      holder !== null &&
      holder.pid !== process.pid &&
      (await isRunning({ pid: holder.pid, startTicks: holder.start_ticks }))
    ) {
      throw lockedBy(paths, holder);
    }
    const startTicks = (await readStartTicks(process.pid)) ?? 0;
    const self: Holder = { pid: process.pid, start_ticks: startTicks, socket };
    await writeFileAtomic(file, `${JSON.stringify(self)}\n`);
  } catch (error) {
    await close(server);
    throw error;
  }
  return async () => {
    await removeFile(file);
    await close(server);
  };
}

async function holdName(paths: Locked, file: string): Promise<Server> {
  const hash = createHash('sha256')
    .update(await realpath(paths.root))
    .digest('hex')
    .slice(0, 32);
  const name = `\0forkd-controller-${hash}`;
  // The one before may be ending at this moment.
  for (let waitedMs = 0; ; waitedMs += 100) {
    try {
      return await listen(name);
    } catch (error) {
      if (errnoOf(error) !== 'EADDRINUSE') throw error;
      if (waitedMs >= limits.lockWaitMs) throw lockedBy(paths, await readHolder(file));
      await sleep(100);
    }
  }
}

function listen(name: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((connection) => connection.destroy());
    server.once('error', reject);
    server.listen(name, () => {
      server.off('error', reject);
      server.unref();
      resolve(server);
    });
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
  });
}

/** A pid file that cannot be read says nothing: the other lock decides. */
async function readHolder(file: string): Promise<Holder | null> {
  const bytes = await readCapped(file, 4096, () => new Error('too long')).catch(() => null);
  if (bytes === null) return null;
  try {
    const value = JSON.parse(bytes.toString('utf8')) as Partial<Holder> | null;
    const { pid, start_ticks, socket } = value ?? {};
    if (typeof pid !== 'number' || typeof start_ticks !== 'number' || typeof socket !== 'string') return null;
    return { pid, start_ticks, socket };
  } catch {
    return null;
  }
}

function lockedBy(paths: Locked, holder: Holder | null): LockedError {
  const who = holder === null ? 'Another controller' : `The controller with pid ${holder.pid} (on ${holder.socket})`;
  const other = 'Use that one, or give another with --data-dir and --snapshot-root.';
  return new LockedError(`${who} has the directory ${paths.root}. ${other}`);
}
