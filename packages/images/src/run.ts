import { spawn, type ChildProcess } from 'node:child_process';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { boundedText, visibleText } from '@forkd/api';
import { ImageError, diskFull, isErrno } from './errors.ts';
import { lineReader } from './line-reader.ts';

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  /** The time after which the program is ended, and has failed. Default: none. */
  readonly timeoutMs?: number;
  readonly cwd?: string;
  /** Added to this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** The program's standard input. If it fails, the program is ended and `run` fails with the same error. */
  readonly input?: AsyncIterable<Buffer>;
  /** Called with each line that the program prints, up to a number of lines and a length. */
  readonly onLine?: (line: string) => void;
  /** Called with what went wrong, to say it in the words of the caller's operation. */
  readonly onFailure?: (failure: ImageError) => ImageError;
}

/** Enough for the cause of an error, even after dpkg has listed every package that it could not set up. */
const STDERR_TAIL_CHARS = 64 * 1024;
const KILL_AFTER_MS = 5_000;
/** The last lines that the hint of an error quotes. */
const HINT_LINES = 10;
const HINT_CHARS = 2000;
/** The part of a command that the sentence of an error quotes. */
const COMMAND_CHARS = 300;

/** The Debian package of each program that is not named as its package is. */
const PACKAGES: Readonly<Record<string, string>> = {
  'apt-cache': 'apt',
  'apt-get': 'apt',
  busybox: 'busybox-static',
  cp: 'coreutils',
  sync: 'coreutils',
  'mkfs.erofs': 'erofs-utils',
  'mkfs.ext4': 'e2fsprogs',
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

/**
 * The standard output of a program as it arrives; `stdin` is the file that it reads. It fails at the end if the program has.
 * A caller that stops reading ends the program.
 */
export async function* runStream(
  file: string,
  args: readonly string[],
  { stdin, signal }: { stdin: number; signal: AbortSignal | undefined },
): AsyncGenerator<Buffer> {
  signal?.throwIfAborted();
  const stopped = new AbortController();
  const child = spawn(file, args, {
    detached: true,
    stdio: [stdin, 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
  const end = endOf(child, [signal, stopped.signal]);
  // The error is read below, after the output.
  end.catch(() => {});
  try {
    for await (const chunk of child.stdout!) yield chunk as Buffer;
    const outcome = await end.catch((error: unknown) => {
      throw isErrno(error, 'ENOENT') ? missingProgram(file) : error;
    });
    signal?.throwIfAborted();
    if (outcome.status !== 0) throw failureOf(file, args, outcome);
  } finally {
    stopped.abort();
    await end.catch(() => {});
  }
}

export function missingProgram(file: string): ImageError {
  const name = PACKAGES[file] ?? file;
  return new ImageError(
    'missing_program',
    `The program ${file} is not on this machine; Debian has it in the package ${name}.`,
    { hint: `Install it: apt-get install --no-install-recommends ${name}` },
  );
}

interface Ending {
  /** The exit code or the signal; `late` if it ran out of time. */
  readonly status: number | string;
  readonly stderr: string;
}

interface Outcome extends Ending {
  readonly stdout: Buffer;
}

async function runToEnd(file: string, args: readonly string[], options: RunOptions): Promise<Outcome> {
  const { signal, timeoutMs, cwd, env, input, onLine } = options;
  const failed = new AbortController();
  const deadline = timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs);
  // A process group of its own, so that an abort reaches the children too: mmdebstrap ignores a signal sent to it alone.
  const child = spawn(file, args, {
    detached: true,
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C', ...env },
    ...(cwd === undefined ? {} : { cwd }),
  });
  const stdout: Buffer[] = [];
  child.stdout!.on('data', (chunk: Buffer) => stdout.push(chunk));
  if (onLine !== undefined) {
    child.stdout!.on('data', lineReader(onLine));
    child.stderr!.on('data', lineReader(onLine));
  }
  const end = endOf(child, [signal, failed.signal, deadline]);
  const fed = input === undefined ? Promise.resolve() : feed(child, input);
  fed.catch((error: unknown) => failed.abort(error));
  const ending = await end;
  await fed;
  const status = deadline?.aborted === true ? 'late' : ending.status;
  return { ...ending, status, stdout: Buffer.concat(stdout) };
}

/** A program that reads no more has its reason, which its ending tells. */
async function feed(child: ChildProcess, input: AsyncIterable<Buffer>): Promise<void> {
  await pipeline(Readable.from(input), child.stdin!).catch((error: unknown) => {
    if (!isErrno(error, 'EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE')) throw error;
  });
}

/** Waits for the end of a program and of its output. Any of the signals hastens it. */
function endOf(child: ChildProcess, signals: readonly (AbortSignal | undefined)[]): Promise<Ending> {
  return new Promise((resolve, reject) => {
    let stderr = '';
    child.stderr!.on('data', (chunk: Buffer) => {
      stderr = (stderr + chunk.toString()).slice(-STDERR_TAIL_CHARS);
    });
    const stopAbort = killGroupOnAbort(child.pid, signals);
    child.once('error', (error) => {
      stopAbort();
      reject(error);
    });
    child.once('close', (status, endedBy) => {
      stopAbort();
      resolve({ status: status ?? endedBy ?? 'unknown', stderr });
    });
  });
}

/** Asks the group to end, and makes it end when it has not done so in a few seconds. Returns how to call that off. */
function killGroupOnAbort(pid: number | undefined, signals: readonly (AbortSignal | undefined)[]): () => void {
  if (pid === undefined) return () => {};
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
    clearTimeout(timer);
    timer = setTimeout(() => kill('SIGKILL'), KILL_AFTER_MS);
  };
  for (const signal of signals) signal?.addEventListener('abort', onAbort, { once: true });
  return () => {
    for (const signal of signals) signal?.removeEventListener('abort', onAbort);
    clearTimeout(timer);
  };
}

function failureOf(file: string, args: readonly string[], { status, stderr }: Ending): ImageError {
  const tail = stderr.trim();
  if (/no space left on device/i.test(tail)) return diskFull(`the output of ${file}`, new Error(tail));
  const command = boundedText([file, ...args].join(' '), COMMAND_CHARS);
  const lastLine = tail.split('\n').at(-1) ?? '';
  const ending = status === 'late' ? 'no result in time' : endingOf(status);
  return new ImageError(
    'program_failed',
    `'${command}' ended with ${ending}${lastLine === '' ? '.' : `: ${lastLine}`}`,
    {
      hint: tail === '' ? 'It left no message.' : `It ended with:\n${lastLines(tail)}`,
      cause: new Error(tail),
    },
  );
}

function endingOf(status: number | string): string {
  return typeof status === 'number' ? `exit code ${status}` : `signal ${status}`;
}

/** The last lines of what a program said, which a terminal can show without obeying them. */
function lastLines(text: string): string {
  return visibleText(text).split('\n').slice(-HINT_LINES).join('\n').slice(-HINT_CHARS);
}
