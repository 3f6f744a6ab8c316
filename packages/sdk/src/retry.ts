import { sleep } from './deadline.ts';
import { ForkdError } from './errors.ts';

/**
 * What may be asked a second time, once a request may have reached the controller.
 * `read`: it changes nothing. `keyed`: it carries an Idempotency-Key, so that the controller does it once. `never`: all else.
 */
export type Repeatable = 'read' | 'keyed' | 'never';

const DELAYS_MS = [100, 300, 900];
/** Who asks for more is told to the caller instead. */
const RETRY_AFTER_MS_MAX = 10_000;
const PASSING_STATUS = new Set([502, 503, 504]);

/** Tries again, a bounded number of times, where that is safe and the failure is one that passes. */
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
      // That nobody answers now does not say what became of the request whose answer was lost: that is the error to tell.
      if (lost !== undefined && error instanceof ForkdError && error.code === 'connection_failed') throw lost;
      if (delayMs === undefined || signal.aborted || !isPassing(error, repeatable)) throw error;
      if (isLost(error)) lost = error;
      await sleep(waitMs(error, delayMs), signal);
    }
  }
  throw new Error('unreachable: the last try throws');
}

/** `fetch` tells every failure of a connection as a TypeError, by its name: a test's or a page's realm has a class of its own. */
export function isLost(error: unknown): error is Error {
  return typeof error === 'object' && error !== null && 'name' in error && error.name === 'TypeError';
}

/** From the header Retry-After: seconds, or a date. */
export function retryAfterMs(header: string | null): number | undefined {
  if (header === null || header.trim() === '') return undefined;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

function isPassing(error: unknown, repeatable: Repeatable): boolean {
  if (repeatable === 'never') return false;
  if (isLost(error)) return true;
  if (!(error instanceof ForkdError) || !PASSING_STATUS.has(error.status)) return false;
  if ((error.retryAfterMs ?? 0) > RETRY_AFTER_MS_MAX) return false;
  // An error of the controller's own is its answer; one of something in between leaves open whether there was one.
  return repeatable === 'read' || error.body === undefined;
}

function waitMs(error: unknown, delayMs: number): number {
  const asked = error instanceof ForkdError ? error.retryAfterMs : undefined;
  // Not all at the same time, where many were cut off at once.
  return asked ?? delayMs * (0.5 + Math.random() / 2);
}
