import { spawn } from 'node:child_process';
import { mkdir, open } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { EngineError, REINSTALL_HINT } from '../errors.ts';
import { readTail } from '../files.ts';
import { type DaemonKind, type DaemonStart, titleOf } from './kind.ts';
import { dialDaemon, type Hello, Link, type Messages } from './link.ts';

/** How often a daemon is looked for or started when the one that was found ends. */
const CONNECT_ATTEMPTS = 5;

/** How long a daemon may take until it listens. */
const START_TIMEOUT_MS = 10_000;

/** How long a daemon may take to end. A daemon that hangs must delay nobody. */
const END_TIMEOUT_MS = 10_000;

/** Time between two attempts to connect: a socket that does not exist yet cannot be waited for. */
const RETRY_MS = 5;

/** The exit status of a daemon that found another at work: `EX_TEMPFAIL` of `sysexits.h`. */
const EX_TEMPFAIL = 75;

/** A daemon that was started: what became of it, once that is known. */
interface Attempt {
  ended: { status: number | null; why: string } | undefined;
}

/**
 * Connects to the daemon of `start.runDir`, starting one when none answers. It outlives this process. Throws the codes of
 * `kind`.
 */
export async function connectDaemon<M extends Messages>(
  kind: DaemonKind,
  start: DaemonStart,
): Promise<{ link: Link<M>; hello: Extract<M['answer'], Hello> }> {
  const path = `${start.runDir}/${kind.name}.sock`;
  for (let attempt = 1; ; attempt += 1) {
    const socket = (await dialDaemon(kind, path)) ?? (await startDaemon(kind, start, path));
    const link = new Link<M>(kind, socket);
    try {
      return { link, hello: await link.hello() };
    } catch (error) {
      link.close();
      // A daemon that was killed a moment ago may still accept a connection, and then drops it.
      const gone = error instanceof EngineError && error.code === kind.codes.gone;
      if (!gone || attempt >= CONNECT_ATTEMPTS) throw error;
    }
  }
}

/** Tells a daemon to end, and waits for it. Throws `cancelled` if it does not end in time. */
export async function endDaemon<M extends Messages>(link: Link<M>, shutdown: M['op'], pid: number): Promise<void> {
  await link.request(shutdown, { signal: AbortSignal.timeout(END_TIMEOUT_MS) });
  const over = new AbortController();
  const late = delay(END_TIMEOUT_MS, true, { signal: over.signal }).catch(() => false);
  const isLate = await Promise.race([link.gone.then(() => false), late]);
  over.abort();
  const title = titleOf(link.kind);
  if (isLate) throw new EngineError('cancelled', `The ${title} ${pid} has not ended within ${END_TIMEOUT_MS} ms.`);
}

/**
 * Starts a daemon, and resolves with the first connection to it. When several processes start one at the same time, one wins
 * and all connect to that.
 */
async function startDaemon(kind: DaemonKind, start: DaemonStart, path: string): Promise<Socket> {
  await mkdir(start.runDir, { recursive: true, mode: 0o700 });
  const logPath = `${start.runDir}/${kind.name}.log`;
  const deadline = Date.now() + START_TIMEOUT_MS;
  let attempt = await spawnDaemon(start, logPath);
  for (;;) {
    start.signal?.throwIfAborted();
    const socket = await dialDaemon(kind, path);
    if (socket) return socket;
    const { ended } = attempt;
    if (Date.now() > deadline || (ended && ended.status !== EX_TEMPFAIL)) {
      throw await startFailure(kind, start.bin, ended?.why ?? 'it never listened', logPath);
    }
    // The other one may be about to listen, or about to end.
    if (ended) attempt = await spawnDaemon(start, logPath);
    await delay(RETRY_MS);
  }
}

async function spawnDaemon({ bin, args }: DaemonStart, logPath: string): Promise<Attempt> {
  const log = await open(logPath, 'a', 0o600);
  const attempt: Attempt = { ended: undefined };
  try {
    const child = spawn(bin, args, { detached: true, stdio: ['ignore', log.fd, log.fd] });
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

async function startFailure(kind: DaemonKind, bin: string, why: string, logPath: string): Promise<EngineError> {
  const log = await readTail(logPath);
  return new EngineError(kind.codes.missing, `The ${titleOf(kind)} ${bin} did not start: ${why}.`, {
    hint: log === '' ? REINSTALL_HINT : `It said: ${log}`,
  });
}
