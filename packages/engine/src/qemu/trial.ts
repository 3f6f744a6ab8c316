import { spawn } from 'node:child_process';

/** How much of each stream is kept: the end of it. */
const KEPT_CHARS = 64 * 1024;
/** How much of QEMU's last words goes into a sentence. */
const LAST_WORDS_CHARS = 300;

/** How long output is read that is still in a pipe when the program has ended. */
const DRAIN_MS = 200;

/** A run of a program that is over in bounded time. */
export interface TrialRun {
  args: readonly string[];
  timeoutMs: number;
  /** Written to its input, which is closed then. */
  input?: string;
  /** The run ends when the output has this. */
  until?: string;
  signal?: AbortSignal | undefined;
}

export interface TrialResult {
  /** The exit status; `null` when a signal ended the program. */
  status: number | null;
  stdout: string;
  /** The last line of its error output, or how the program ended, as the rest of a sentence. */
  lastWords: string;
}

/** Runs `program` until it ends, has printed what is waited for, or has taken too long. Rejects when it cannot be started. */
export function runTrial(program: string, { args, timeoutMs, input, until, signal }: TrialRun): Promise<TrialResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'pipe', ...(signal && { signal, killSignal: 'SIGKILL' }) });
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
    }, timeoutMs);
    // A child of the program may hold the output open for ever.
    child.once('exit', () =>
      setTimeout(() => [child.stdout, child.stderr].forEach((pipe) => pipe.destroy()), DRAIN_MS),
    );
    let [stdout, stderr] = ['', ''];
    child.stdout.setEncoding('latin1').on('data', (text: string) => {
      stdout = (stdout + text).slice(-KEPT_CHARS);
      if (until !== undefined && stdout.includes(until)) child.kill('SIGKILL');
    });
    child.stderr.setEncoding('latin1').on('data', (text: string) => {
      stderr = (stderr + text).slice(-KEPT_CHARS);
    });
    // A program that ends at once may close its input before it was written to; its exit says why.
    child.stdin.on('error', () => undefined).end(input);
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (status, killedBy) => {
      clearTimeout(timer);
      const ended = timedOut ? `nothing within ${timeoutMs} ms` : `${killedBy ?? `status ${status}`} and no message`;
      resolve({ status, stdout, lastWords: lastLine(stderr) ?? ended });
    });
  });
}

/** An error's first sentence rather than the assertion that follows it. Control characters are left out. */
function lastLine(text: string): string | undefined {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const line = lines.findLast((candidate) => candidate.includes(' error: ')) ?? lines.at(-1);
  return line
    ?.replaceAll(/\p{Cc}+/gu, ' ')
    .slice(0, LAST_WORDS_CHARS)
    .replace(/[.\s]+$/, '');
}
