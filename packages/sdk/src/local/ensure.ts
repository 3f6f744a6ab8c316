import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { limits, messageOf } from '@forkd/api/constants';
import { ForkdClient } from '../client.ts';
import { sleep, unlessAborted } from '../deadline.ts';
import { ForkdError } from '../errors.ts';
import type { FetchInit, FetchLike, PlatformFetch } from '../fetch-types.ts';
import { openUnixFetch } from '../unix-fetch.ts';
import { localPaths, type LocalPaths } from './paths.ts';
import { controllerProgram } from './program.ts';

export interface EnsureOptions {
  dataDir?: string | undefined;
  socket?: string | undefined;
  /** Start a controller if none runs. If false, a missing controller is the error `controller_not_running`. */
  autostart: boolean;
  token?: string | undefined;
  signal?: AbortSignal | undefined;
  /** Called before a controller is started. */
  onStart?: ((dataDir: string) => void) | undefined;
}

export interface LocalController {
  client: ForkdClient;
  socket: string;
  dataDir: string;
  started: boolean;
}

const START_TIMEOUT_MS = 30_000;
/** If our controller exits because the data directory is taken, the controller that took it may still be starting. */
const WINNER_TIMEOUT_MS = 5_000;
const FAILURE_EXIT_CODE = 1;
/** Bounds of the poll interval for a starting controller. The interval is a tenth of the time since the start. */
const POLL_MS_MIN = 5;
const POLL_MS_MAX = 100;
const PROBE_TIMEOUT_MS = 5_000;
const IDLE_MS_MAX = 10_000;
const LOG_TAIL_BYTES = 2_000;

/**
 * Finds the controller of this data directory, or starts it.
 * Nothing is locked: of two controllers that start at once, one fails to bind the socket and exits. Its starter finds the other.
 */
export async function ensureController(options: EnsureOptions): Promise<LocalController> {
  const paths = localPaths(options);
  const client = new ForkdClient({ socket: paths.socket, token: options.token });
  const found = { client, socket: paths.socket, dataDir: paths.dataDir };
  if (await answers(client, options.signal)) return { ...found, started: false };
  return { ...found, started: await startIfAllowed(client, paths, options) };
}

/** Makes a client of this data directory's controller: see {@link openLocalFetch}. */
export function localClient(options: EnsureOptions): ForkdClient {
  const { fetch, webSocket } = openLocalFetch(options);
  return new ForkdClient({ socket: localPaths(options).socket, token: options.token, fetch, webSocket });
}

/**
 * Sends requests to this data directory's controller. A request that finds no controller starts one and is sent again.
 * If a controller runs, each call is one request, without a probe.
 */
export function openLocalFetch(options: EnsureOptions): PlatformFetch & { place: string } {
  const paths = localPaths(options);
  const probe = new ForkdClient({ socket: paths.socket, token: options.token });
  const unix = openUnixFetch(paths.socket, IDLE_MS_MAX);
  let start: Promise<boolean> | undefined;
  let answeredMs = -Infinity;
  const fetch: FetchLike = async (url, init) => {
    // A controller that has just answered is not replaced: the caller may wait for it to restart. One that was idle for longer
    // may have ended by itself.
    const isKnown = performance.now() - answeredMs < limits.idleExitSecsDefault * 1000;
    // A stream can be sent only once, so the controller must be up before.
    if (isKnown || !isStream(init.body) || (await answers(probe, init.signal))) {
      try {
        const reply = await unix.fetch(url, init);
        answeredMs = performance.now();
        return reply;
      } catch (error) {
        if (isKnown || isStream(init.body) || !isAbsent(error)) throw error;
      }
    }
    start ??= startUnlessUp(probe, paths, options).finally(() => (start = undefined));
    await unlessAborted(start, init.signal);
    answeredMs = performance.now();
    return unix.fetch(url, init);
  };
  return { fetch, webSocket: unix.webSocket, close: () => unix.close(), place: `unix:${paths.socket}` };
}

/** A request that fails late may find that another one has started the controller meanwhile. */
async function startUnlessUp(client: ForkdClient, paths: LocalPaths, options: EnsureOptions): Promise<boolean> {
  return (await answers(client, options.signal)) || startIfAllowed(client, paths, options);
}

function isStream(body: FetchInit['body']): boolean {
  return body !== undefined && typeof body !== 'string' && !(body instanceof Uint8Array);
}

/** True if the socket does not exist, or no process listens on it. */
function isAbsent(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error && 'code' in cause && (cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED');
}

async function startIfAllowed(client: ForkdClient, paths: LocalPaths, options: EnsureOptions): Promise<boolean> {
  if (options.autostart) {
    options.onStart?.(paths.dataDir);
    return startController(client, paths, options.signal);
  }
  throw new ForkdError('controller_not_running', `No controller runs on ${paths.socket}.`, {
    hint: 'Any command that needs a controller starts one; `forkd-controller serve` starts one by hand.',
  });
}

async function answers(client: ForkdClient, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    return (await client.health({ signal, timeoutMs: PROBE_TIMEOUT_MS })).ok;
  } catch (error) {
    if (signal?.aborted) throw error;
    // A socket that accepts but does not answer belongs to a controller in trouble. A second controller would not help.
    if (error instanceof ForkdError && error.code !== 'connection_failed' && error.code !== 'stream_cut') throw error;
    return false;
  }
}

/** Returns whether the controller that answers is ours, not the winner of a race. */
async function startController(
  client: ForkdClient,
  paths: LocalPaths,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const { child, logStartBytes } = launch(paths);
  let end: string | undefined;
  const startMs = performance.now();
  let deadlineMs = startMs + START_TIMEOUT_MS;
  child.once('error', (error) => (end = error.message));
  child.once('exit', (code, by) => {
    end = by ? `signal ${by}` : `exit code ${code}`;
    const winnerMs = code === FAILURE_EXIT_CODE ? WINNER_TIMEOUT_MS : 0;
    deadlineMs = Math.min(deadlineMs, performance.now() + winnerMs);
  });
  let isUp = false;
  try {
    while (performance.now() < deadlineMs) {
      isUp = (await isListening(paths.socket)) && (await answers(client, signal));
      if (isUp) return end === undefined;
      const tenthMs = (performance.now() - startMs) / 10;
      await sleep(Math.min(Math.max(tenthMs, POLL_MS_MIN), POLL_MS_MAX), signal);
    }
    throw startFailure(paths, end, logStartBytes);
  } finally {
    if (!isUp && end === undefined) child.kill('SIGTERM');
    // The controller outlives this process. A listener on it would keep this process alive.
    child.removeAllListeners();
    child.unref();
  }
}

/** Only connects and sends no request, so that polling costs next to nothing while the controller starts. */
function isListening(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = net.connect(socket);
    connection.once('connect', () => {
      connection.destroy();
      resolve(true);
    });
    connection.once('error', () => resolve(false));
  });
}

function launch(paths: LocalPaths): { child: ChildProcess; logStartBytes: number } {
  const program = controllerProgram();
  const log = openLog(paths);
  try {
    const logStartBytes = fstatSync(log).size;
    const places = ['--data-dir', paths.dataDir, '--socket', paths.socket];
    const life = ['--no-tcp', '--idle-exit-secs', String(limits.idleExitSecsDefault)];
    const args = [...program.args, 'serve', ...places, ...life];
    // The new session keeps Ctrl-C here from reaching the controller. The cwd is set so that no directory of the caller stays busy.
    const child = spawn(program.file, args, { detached: true, stdio: ['ignore', log, log], cwd: paths.dataDir });
    return { child, logStartBytes };
  } finally {
    closeSync(log);
  }
}

function openLog({ dataDir, runDir, log }: LocalPaths): number {
  try {
    mkdirSync(runDir, { recursive: true, mode: 0o700 });
    return openSync(log, 'a', 0o600);
  } catch (error) {
    throw new ForkdError('controller_failed', `The data directory ${dataDir} cannot be used: ${messageOf(error)}.`, {
      hint: 'Choose another directory with --data-dir or FORKD_DATA_DIR, or run as the user who owns this one.',
      cause: error,
    });
  }
}

function startFailure(paths: LocalPaths, end: string | undefined, logStartBytes: number): ForkdError {
  const tail = readFileSync(paths.log).subarray(logStartBytes).subarray(-LOG_TAIL_BYTES).toString('utf8').trim();
  const what = end === undefined ? `did not answer within ${START_TIMEOUT_MS / 1000} s` : `ended with ${end}`;
  return new ForkdError('controller_failed', `The controller ${what}${tail ? `:\n${tail}` : '.'}`, {
    hint: `Its log is ${paths.log}.`,
  });
}
