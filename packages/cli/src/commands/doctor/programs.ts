import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import path from 'node:path';

const TIMEOUT_MS = 10_000;
const OUTPUT_CHARS_MAX = 64 * 1024;

export type Ended = { status: number | string; stdout: string; stderr: string; error?: string };
type RunOptions = {
  env: NodeJS.ProcessEnv;
  signal: AbortSignal;
  timeoutMs?: number;
  /** Ends the program once it has printed this. */
  until?: string;
};

/** Runs a program to its end, which comes at the deadline at the latest. `error` says why it could not be started. */
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
    child.once('close', (code, by) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', kill);
      if (signal.aborted) reject(signal.reason as Error);
      else resolve({ ...ended, status: code ?? by ?? ended.status });
    });
  });
}

export async function findProgram(name: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  for (const directory of (env['PATH'] ?? '').split(path.delimiter).filter(Boolean)) {
    const file = path.join(directory, name);
    const isExecutable = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isExecutable) return file;
  }
  return undefined;
}
