import { spawn } from 'node:child_process';
import { mkdir, open } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { EngineError, REINSTALL_HINT } from '../errors.ts';
import { readTail } from '../files.ts';

/** How long a pager may take until it listens. */
const START_TIMEOUT_MS = 10_000;

/** Between two attempts to connect: a socket that does not exist yet cannot be waited for. */
const RETRY_MS = 5;

export interface PagerOptions {
  /** The `forkd-pager` program. */
  bin: string;
  /** The directory of its sockets, its lock and its log. */
  runDir: string;
  /** The store whose blobs it reads and writes. */
  storeDir: string;
  signal?: AbortSignal;
}

/** The exit status of a pager that found another at work: `EX_TEMPFAIL` of `sysexits.h`. */
const EX_TEMPFAIL = 75;

/** A pager that was started: what became of it, once that is known. */
interface Attempt {
  ended: { status: number | null; why: string } | undefined;
}

/**
 * Starts a pager that outlives this process, and resolves with the first connection to it. When several processes start
 * one at the same time, one pager wins and all connect to that.
 */
export async function startPager(options: PagerOptions, dial: () => Promise<Socket | null>): Promise<Socket> {
  await mkdir(options.runDir, { recursive: true, mode: 0o700 });
  const logPath = `${options.runDir}/pager.log`;
  const deadline = Date.now() + START_TIMEOUT_MS;
  let attempt = await spawnPager(options, logPath);
  for (;;) {
    options.signal?.throwIfAborted();
    const socket = await dial();
    if (socket) return socket;
    const { ended } = attempt;
    if (Date.now() > deadline || (ended && ended.status !== EX_TEMPFAIL)) {
      throw await startFailure(options.bin, ended?.why ?? 'it never listened', logPath);
    }
    // The other one may be about to listen, or about to end.
    if (ended) attempt = await spawnPager(options, logPath);
    await delay(RETRY_MS);
  }
}

async function spawnPager(options: PagerOptions, logPath: string): Promise<Attempt> {
  const log = await open(logPath, 'a', 0o600);
  const attempt: Attempt = { ended: undefined };
  try {
    const child = spawn(options.bin, ['--run-dir', options.runDir, '--store-dir', options.storeDir], {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    child.once('error', (error) => (attempt.ended = { status: null, why: error.message }));
    child.once('exit', (status, signal) => {
      attempt.ended = { status, why: `it ended with ${signal ?? `status ${status}`}` };
    });
    child.unref();
    return attempt;
  } finally {
    await log.close();
  }
}

async function startFailure(bin: string, why: string, logPath: string): Promise<EngineError> {
  const log = await readTail(logPath);
  return new EngineError('pager_missing', `The pager ${bin} did not start: ${why}.`, {
    hint: log === '' ? REINSTALL_HINT : `It said: ${log}`,
  });
}
