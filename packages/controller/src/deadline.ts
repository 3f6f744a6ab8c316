import { anySignal } from '@forkd/engine';

/**
 * Gives `body` a signal that fires when `timeoutMs` is over or `outer` fires. After a timeout it throws the error of
 * `late`. The timer is cleared before this returns.
 */
export async function withDeadline<T>(
  timeoutMs: number,
  outer: AbortSignal | undefined,
  late: () => Error,
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  outer?.throwIfAborted();
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(late()), timeoutMs);
  const signal = anySignal(timeout.signal, outer);
  try {
    return await raceAbort(body(signal), signal);
  } catch (error) {
    if (timeout.signal.aborted && !outer?.aborted) throw timeout.signal.reason;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Waits until `promise` settles either way, but no longer than `timeoutMs`. */
export async function settledWithin(timeoutMs: number, promise: Promise<unknown>): Promise<void> {
  const late = () => new Error('the wait is over');
  await withDeadline(timeoutMs, undefined, late, () => promise).catch(() => undefined);
}

/** Settles as `promise` does, or rejects with the signal's reason when that fires first. */
export async function raceAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  // The promise that loses the race must not become an unhandled rejection.
  promise.catch(() => undefined);
  signal.throwIfAborted();
  let onAbort: (() => void) | undefined;
  try {
    return await Promise.race([
      promise,
      new Promise<never>((_, reject) => {
        onAbort = () => reject(signal.reason as Error);
        signal.addEventListener('abort', onAbort, { once: true });
      }),
    ]);
  } finally {
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort);
  }
}

export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  let timer: NodeJS.Timeout | undefined;
  const elapsed = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    await (signal === undefined ? elapsed : raceAbort(elapsed, signal));
  } finally {
    clearTimeout(timer);
  }
}
