import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { limits } from '@forkd/api/constants';
import { ForkdClient } from '../client.ts';
import { sleep } from '../deadline.ts';
import { ForkdError } from '../errors.ts';
import { localPaths, type LocalPaths } from './paths.ts';
import { controllerProgram } from './program.ts';

export type EnsureOptions = {
  dataDir?: string | undefined;
  socket?: string | undefined;
  /** Start one when none runs; otherwise that is the error `controller_not_running`. */
  autostart: boolean;
  token?: string | undefined;
  signal?: AbortSignal | undefined;
};

export type LocalController = { client: ForkdClient; socket: string; dataDir: string; started: boolean };

const START_TIMEOUT_MS = 30_000;
/** After ours ended early as one does that finds the data directory taken: the winner may still be coming up. */
const WINNER_TIMEOUT_MS = 5_000;
const FAILURE_EXIT_CODE = 1;
const POLL_MS = 25;
const PROBE_TIMEOUT_MS = 5_000;
const LOG_TAIL_BYTES = 2_000;

/**
 * The controller of this data directory: the one that runs, or a new one.
 * There is no lock. Two that start at once both try to bind the socket; the one that loses ends, and its starter finds the winner.
 */
export async function ensureController(options: EnsureOptions): Promise<LocalController> {
  const paths = localPaths(options);
  const client = new ForkdClient({ socket: paths.socket, token: options.token });
  const found = { client, socket: paths.socket, dataDir: paths.dataDir };
  if (await answers(client, options.signal)) return { ...found, started: false };
  if (!options.autostart) {
    throw new ForkdError('controller_not_running', `no controller runs on ${paths.socket}`, {
      hint: 'any command that needs one starts it; `forkd-controller serve` does so by hand',
    });
  }
  const started = await startController(client, paths, options.signal);
  return { ...found, started };
}

async function answers(client: ForkdClient, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    return (await client.health({ signal, timeoutMs: PROBE_TIMEOUT_MS })).ok;
  } catch (error) {
    if (signal?.aborted) throw error;
    // A socket that accepts and does not answer is a controller in trouble: a second one beside it would make that worse.
    if (error instanceof ForkdError && error.code !== 'connection_failed' && error.code !== 'stream_cut') throw error;
    return false;
  }
}

/** @returns whether the controller that answers is ours, and not the winner of a race. */
async function startController(
  client: ForkdClient,
  paths: LocalPaths,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const { child, logStartBytes } = launch(paths);
  let end: string | undefined;
  let deadlineMs = performance.now() + START_TIMEOUT_MS;
  child.once('error', (error) => (end = error.message));
  child.once('exit', (code, by) => {
    end = by ? `signal ${by}` : `exit code ${code}`;
    const winnerMs = code === FAILURE_EXIT_CODE ? WINNER_TIMEOUT_MS : 0;
    deadlineMs = Math.min(deadlineMs, performance.now() + winnerMs);
  });
  let isUp = false;
  try {
    while (performance.now() < deadlineMs) {
      isUp = await answers(client, signal);
      if (isUp) return end === undefined;
      await sleep(POLL_MS, signal);
    }
    throw startFailure(paths, end, logStartBytes);
  } finally {
    if (!isUp && end === undefined) child.kill('SIGTERM');
    // It lives on without us; a listener that stays would keep this process waiting for it.
    child.removeAllListeners();
    child.unref();
  }
}

function launch(paths: LocalPaths): { child: ChildProcess; logStartBytes: number } {
  const program = controllerProgram();
  mkdirSync(paths.runDir, { recursive: true, mode: 0o700 });
  const log = openSync(paths.log, 'a', 0o600);
  try {
    const logStartBytes = fstatSync(log).size;
    const places = ['--data-dir', paths.dataDir, '--socket', paths.socket];
    const life = ['--no-tcp', '--idle-exit-secs', String(limits.idleExitSecsDefault)];
    const args = [...program.args, 'serve', ...places, ...life];
    // A session of its own, so that a Ctrl-C here does not reach it; and no directory of the caller's kept busy.
    const child = spawn(program.file, args, { detached: true, stdio: ['ignore', log, log], cwd: paths.dataDir });
    return { child, logStartBytes };
  } finally {
    closeSync(log);
  }
}

function startFailure(paths: LocalPaths, end: string | undefined, logStartBytes: number): ForkdError {
  const tail = readFileSync(paths.log).subarray(logStartBytes).subarray(-LOG_TAIL_BYTES).toString('utf8').trim();
  const what = end === undefined ? `did not answer within ${START_TIMEOUT_MS / 1000} s` : `ended with ${end}`;
  return new ForkdError('controller_failed', `the controller ${what}${tail ? `:\n${tail}` : ''}`, {
    hint: `its log is ${paths.log}`,
  });
}
