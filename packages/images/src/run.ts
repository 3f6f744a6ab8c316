import { spawn } from 'node:child_process';
import { ImageError, diskFull, isErrno } from './errors.ts';

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  readonly cwd?: string;
  /** Added to this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Called with what went wrong, to say it in the words of the caller's operation. */
  readonly onFailure?: (failure: ImageError) => ImageError;
}

/** Enough to have what went wrong in it after dpkg has told of every package that it could not set up. */
const STDERR_TAIL_CHARS = 64 * 1024;
const KILL_AFTER_MS = 5_000;

/** The Debian package of each program that is not named as its package is. */
const PACKAGES: Readonly<Record<string, string>> = {
  'apt-cache': 'apt',
  'apt-get': 'apt',
  busybox: 'busybox-static',
  cp: 'coreutils',
  'mkfs.erofs': 'erofs-utils',
  xz: 'xz-utils',
};

/**
 * Runs a program to its end and returns its standard output.
 *
 * An abort ends the program with all its children, waits for that, and rejects with the signal's reason: so a caller
 * that cleans up afterwards never races with a process that still writes.
 */
export async function run(file: string, args: readonly string[], options: RunOptions = {}): Promise<Buffer> {
  options.signal?.throwIfAborted();
  const outcome = await runToEnd(file, args, options).catch((error: unknown) => {
    throw isErrno(error, 'ENOENT') ? missingProgram(file) : error;
  });
  options.signal?.throwIfAborted();
  if (outcome.status === 0) return outcome.stdout;
  const failure = failureOf(file, args, outcome);
  throw failure.code === 'program_failed' && options.onFailure ? options.onFailure(failure) : failure;
}

export function missingProgram(file: string): ImageError {
  const name = PACKAGES[file] ?? file;
  return new ImageError(
    'missing_program',
    `The program ${file} is not on this machine; Debian has it in the package ${name}.`,
    `Install it: apt-get install --no-install-recommends ${name}`,
  );
}

interface Outcome {
  readonly status: number | string;
  readonly stdout: Buffer;
  readonly stderr: string;
}

function runToEnd(file: string, args: readonly string[], { signal, cwd, env }: RunOptions): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    // A process group of its own, so that an abort reaches the children too: mmdebstrap ignores a signal sent to it alone.
    const child = spawn(file, args, {
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C', ...env },
      ...(cwd === undefined ? {} : { cwd }),
    });
    const stdout: Buffer[] = [];
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => {
      stderr = (stderr + chunk.toString()).slice(-STDERR_TAIL_CHARS);
    });
    const stopAbort = killGroupOnAbort(child.pid, signal);
    child.once('error', (error) => {
      stopAbort();
      reject(error);
    });
    child.once('close', (status, endedBy) => {
      stopAbort();
      resolve({ status: status ?? endedBy ?? 'unknown', stdout: Buffer.concat(stdout), stderr });
    });
  });
}

/** Asks the group to end, and makes it end when it has not done so in a few seconds. Returns how to call that off. */
function killGroupOnAbort(pid: number | undefined, signal: AbortSignal | undefined): () => void {
  if (pid === undefined || signal === undefined) return () => {};
  let timer: NodeJS.Timeout | undefined;
  const kill = (how: NodeJS.Signals) => {
    try {
      process.kill(-pid, how);
    } catch (error) {
      if (!isErrno(error, 'ESRCH')) throw error;
    }
  };
  const onAbort = () => {
    kill('SIGTERM');
    timer = setTimeout(() => kill('SIGKILL'), KILL_AFTER_MS);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  return () => {
    signal.removeEventListener('abort', onAbort);
    clearTimeout(timer);
  };
}

function failureOf(file: string, args: readonly string[], { status, stderr }: Outcome): ImageError {
  const tail = stderr.trim();
  if (/no space left on device/i.test(tail)) return diskFull(`the output of ${file}`, new Error(tail));
  const command = [file, ...args].join(' ');
  const lastLine = tail.split('\n').at(-1) ?? '';
  const ending = typeof status === 'number' ? `exit code ${status}` : `signal ${status}`;
  return new ImageError(
    'program_failed',
    `'${command}' ended with ${ending}${lastLine === '' ? '.' : `: ${lastLine}`}`,
    'Its full message is in the cause of this error; run the command by hand to see more.',
    new Error(tail),
  );
}
