import { sleep } from './deadline.ts';
import { ForkdError } from './errors.ts';

/**
 * Says if a request may be repeated after it may have reached the controller.
 * `read`: changes nothing. `keyed`: carries an Idempotency-Key, so the controller executes it once. `never`: all others.
 */
export type Repeatable = 'read' | 'keyed' | 'never';

const DELAYS_MS = [100, 300, 900];
/** Longer waits are left to the caller: the error says how long. */
const RETRY_AFTER_MS_MAX = 10_000;
const PASSING_STATUS = new Set([502, 503, 504]);

/** Retries a bounded number of times, if a retry is safe and the failure is transient. */
export async function withRetries<Result>(
  repeatable: Repeatable,
  signal: AbortSignal,
  attempt: () => Promise<Result>,
): Promise<Result> {
  let lost: unknown;
  for (const delayMs of [...DELAYS_MS, undefined]) {
    try {
      return await attempt();
    } catch (error) {
      // A refused retry says nothing about the first attempt, whose reply was lost. Report the loss.
      if (lost !== undefined && error instanceof ForkdError && error.code === 'connection_failed') throw lost;
      if (delayMs === undefined || signal.aborted || !isPassing(error, repeatable)) throw error;
      if (error instanceof LostConnection) lost = error;
      await sleep(waitMs(error, delayMs), signal);
    }
  }
  throw new Error('unreachable: the last try throws');
}

/** A connection that failed or broke during a request or its reply. The cause is what `fetch` reported. */
export class LostConnection extends Error {
  override readonly name = 'LostConnection';
  declare readonly cause: Error;

  constructor(cause: Error) {
    super(cause.message, { cause });
  }
}

/**
 * Says of an error of `fetch`, or of reading its reply, if it is a lost connection: those are reported as a TypeError, which
 * elsewhere is a mistake of the caller. The check is by name: another realm has its own TypeError class.
 */
export function asLost(error: unknown): unknown {
  const isTypeError = typeof error === 'object' && error !== null && 'name' in error && error.name === 'TypeError';
  return isTypeError ? new LostConnection(error as Error) : error;
}

/** Parses the header Retry-After: seconds, or a date. */
export function retryAfterMs(header: string | null): number | undefined {
  if (header === null || header.trim() === '') return undefined;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

function isPassing(error: unknown, repeatable: Repeatable): boolean {
  if (repeatable === 'never') return false;
  if (error instanceof LostConnection) return true;
  if (!(error instanceof ForkdError) || !PASSING_STATUS.has(error.status)) return false;
  if ((error.retryAfterMs ?? 0) > RETRY_AFTER_MS_MAX) return false;
  // An error body comes from the controller and is its reply. A proxy's error does not say if the controller has acted.
  return repeatable === 'read' || error.body === undefined;
}

function waitMs(error: unknown, delayMs: number): number {
  const asked = error instanceof ForkdError ? error.retryAfterMs : undefined;
  // Jitter: clients that were disconnected together must not all retry together.
  return asked ?? delayMs * (0.5 + Math.random() / 2);
}
