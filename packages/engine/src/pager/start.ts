import { spawn } from 'node:child_process';
import { mkdir, open } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { EngineError } from '../errors.ts';
import { readTail } from '../files.ts';
import type { PagerOptions } from './client.ts';

/** How long a pager may take until it listens. */
const START_TIMEOUT_MS = 10_000;

/** Between two attempts to connect: a socket that does not exist yet cannot be waited for. */
const RETRY_MS = 2;

/**
 * Starts a pager that outlives this process, and resolves with the first connection to it. When several processes start
 * one at the same time, one pager wins and all connect to that.
 */
export async function startPager(options: PagerOptions, dial: () => Promise<Socket | null>): Promise<Socket> {
  await mkdir(options.runDir, { recursive: true, mode: 0o700 });
  const logPath = `${options.runDir}/pager.log`;
  const log = await open(logPath, 'a', 0o600);
  let ended: string | undefined;
  try {
    const child = spawn(options.bin, ['--run-dir', options.runDir, '--store-dir', options.storeDir], {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    child.once('error', (error) => (ended = error.message));
    child.once('exit', (code, signal) => (ended = `it ended with ${signal ?? `status ${code}`}`));
    child.unref();
  } finally {
    await log.close();
  }
  return connectTo(options, dial, () => ended, logPath);
}

async function connectTo(
  options: PagerOptions,
  dial: () => Promise<Socket | null>,
  ended: () => string | undefined,
  logPath: string,
): Promise<Socket> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    options.signal?.throwIfAborted();
    // Looked at before dialling: one that ended because another is already there still leaves a socket to find.
    const why = ended();
    const socket = await dial();
    if (socket) return socket;
    if (why !== undefined || Date.now() > deadline) {
      const log = await readTail(logPath);
      throw new EngineError('pager_missing', `The pager ${options.bin} did not start: ${why ?? 'it never listened'}.`, {
        hint: log === '' ? 'Build it with: cargo build --release' : `It said: ${log}`,
      });
    }
    await delay(RETRY_MS);
  }
}
