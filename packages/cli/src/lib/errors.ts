import { errorRegistry, isErrorCode } from '@forkd/api/constants';
import { ForkdError } from '@forkd/sdk';

export const exitCodes = {
  ok: 0,
  failure: 1,
  usage: 2,
  commandTimeout: 124,
  interrupted: 130,
  terminated: 143,
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

/** A check of ours failed, with a sentence that is enough by itself. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, hint?: string) {
    super(message);
    this.code = code;
    this.hint = hint;
  }
}

/** The user, or the system, wants us to end. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly exitCode: number;

  constructor(signal: 'SIGINT' | 'SIGTERM') {
    super(`ended by ${signal}`);
    this.exitCode = signal === 'SIGINT' ? exitCodes.interrupted : exitCodes.terminated;
  }
}

export type ErrorReport = { error: string; code: string; hint?: string; exitCode: number; stack?: string };

/** What the user is told of an error: one sentence, a stable code, what to do; a stack only where it is a fault of ours. */
export function reportOf(error: unknown): ErrorReport {
  if (error instanceof Interrupted) return { error: error.message, code: 'interrupted', exitCode: error.exitCode };
  if (error instanceof UsageError) {
    return withHint({ error: error.message, code: 'usage', exitCode: exitCodes.usage }, error.hint);
  }
  if (error instanceof CommandError) {
    return withHint({ error: error.message, code: error.code, exitCode: exitCodes.failure }, error.hint);
  }
  if (error instanceof ForkdError) {
    const status = error.status === 0 ? '' : ` (HTTP ${error.status})`;
    const hint = error.hint ?? (isErrorCode(error.code) ? errorRegistry[error.code].hint : undefined);
    return withHint({ error: `${error.message}${status}`, code: error.code, exitCode: exitCodes.failure }, hint);
  }
  if (isSystemError(error)) return { error: error.message, code: error.code, exitCode: exitCodes.failure };
  const report: ErrorReport = {
    error: error instanceof Error ? error.message : String(error),
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

/** A file that is not there, a place that may not be written to: Node's message names both. */
function isSystemError(error: unknown): error is Error & { code: string } {
  return error instanceof Error && 'syscall' in error && 'code' in error && typeof error.code === 'string';
}
