import { CodedError, errorRegistry, isErrorCode, messageOf } from '@forkd/api/constants';
import { ForkdError } from '@forkd/sdk';

export const exitCodes = {
  ok: 0,
  failure: 1,
  usage: 2,
  commandTimeout: 124,
  // A signal that ends the process, as shells report it: 128 and the number of the signal.
  SIGHUP: 129,
  SIGINT: 130,
  SIGPIPE: 141,
  SIGTERM: 143,
} as const;

/** The command line itself is wrong. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly hint: string | undefined;

  constructor(message: string, hint?: string) {
    super(message);
    this.hint = hint;
  }
}

/** The user or the system ends this process. SIGPIPE: the reader of our output has gone. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly exitCode: number;

  constructor(signal: 'SIGHUP' | 'SIGINT' | 'SIGPIPE' | 'SIGTERM') {
    super(`Ended by ${signal}.`);
    this.exitCode = exitCodes[signal];
  }
}

export interface ErrorReport {
  error: string;
  code: string;
  hint?: string;
  exitCode: number;
  stack?: string;
}

/** The report of an error for the user: one sentence, a stable code, a hint. Only our own bugs have a stack. */
export function reportOf(error: unknown): ErrorReport {
  if (error instanceof Interrupted) return { error: error.message, code: 'interrupted', exitCode: error.exitCode };
  if (error instanceof UsageError) {
    return withHint({ error: error.message, code: 'usage', exitCode: exitCodes.usage }, error.hint);
  }
  if (error instanceof CodedError) {
    return withHint({ error: error.message, code: error.code, exitCode: exitCodes.failure }, error.hint);
  }
  if (error instanceof ForkdError) {
    const status = error.status === 0 ? '' : ` (HTTP ${error.status})`;
    const hint = error.hint ?? (isErrorCode(error.code) ? errorRegistry[error.code].hint : undefined);
    return withHint({ error: `${error.message}${status}`, code: error.code, exitCode: exitCodes.failure }, hint);
  }
  if (isSystemError(error)) return { error: error.message, code: error.code, exitCode: exitCodes.failure };
  const report: ErrorReport = {
    error: messageOf(error),
    code: 'internal',
    hint: errorRegistry.internal.hint,
    exitCode: exitCodes.failure,
  };
  if (error instanceof Error && error.stack !== undefined) report.stack = error.stack;
  return report;
}

function withHint(report: ErrorReport, hint: string | undefined): ErrorReport {
  return hint === undefined ? report : { ...report, hint };
}

/** True for errors of system calls, such as a missing file or no permission. Node's message names the reason and the path. */
function isSystemError(error: unknown): error is Error & { code: string } {
  return error instanceof Error && 'syscall' in error && 'code' in error && typeof error.code === 'string';
}
