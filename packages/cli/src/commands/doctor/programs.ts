import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { delimiter, join } from 'node:path';

const TIMEOUT_MS = 10_000;
const OUTPUT_CHARS_MAX = 64 * 1024;
/** The time for reading output that is still in a pipe after the program has exited. */
const DRAIN_MS = 200;

export interface Ended {
  status: number | string;
  stdout: string;
  stderr: string;
  error?: string;
}
interface RunOptions {
  env: NodeJS.ProcessEnv;
  signal: AbortSignal;
  timeoutMs?: number;
  /** Kill the program once it has printed this text. */
  until?: string;
}

/** Runs a program to its end, and kills it at the deadline. `error` says why it could not be started. */
export function runProgram(file: string, args: readonly string[], options: RunOptions): Promise<Ended> {
  const { env, signal, timeoutMs = TIMEOUT_MS, until } = options;
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const ended: Ended = { status: 'no status', stdout: '', stderr: '' };
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
    const kill = () => child.kill('SIGKILL');
    const timer = setTimeout(kill, timeoutMs);
    signal.addEventListener('abort', kill);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      ended.stdout = (ended.stdout + text).slice(-OUTPUT_CHARS_MAX);
      if (until !== undefined && ended.stdout.includes(until)) kill();
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      ended.stderr = (ended.stderr + text).slice(-OUTPUT_CHARS_MAX);
    });
    child.once('error', (error) => (ended.error = error.message));
    // A background child of the program may keep the pipes open for ever.
    child.once('exit', () =>
      setTimeout(() => [child.stdout, child.stderr].forEach((pipe) => pipe.destroy()), DRAIN_MS),
    );
    child.once('close', (code, by) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', kill);
      if (signal.aborted) reject(signal.reason as Error);
      else resolve({ ...ended, status: code ?? by ?? ended.status });
    });
  });
}

export async function findProgram(name: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  for (const directory of (env['PATH'] ?? '').split(delimiter).filter(Boolean)) {
    const file = join(directory, name);
    const isExecutable = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isExecutable) return file;
  }
  return undefined;
}
