import { type ForkdError, TimeoutError } from './errors.ts';

/**
 * Options of every method of `ForkdClient`. `timeoutMs` bounds the whole request with its retries and its body; 0: no limit.
 * The limits of a sandbox or a command are fields of the request, in seconds.
 */
export interface CallOptions {
  signal?: AbortSignal | undefined;
  timeoutMs?: number | undefined;
}

export interface Deadline {
  readonly signal: AbortSignal;
  /** Stops the timer and the listener. Call this when the request is over, however it ended. */
  release(): void;
  /** Maps an error of the transport to the error to throw: the caller's abort reason, our timeout, or the error itself. */
  explain(error: unknown): unknown;
}

/**
 * Combines the caller's signal and a timer. AbortSignal.any would not do: Node 20 may garbage-collect a composed signal
 * that a request still uses, and it then never fires.
 */
export function startDeadline(options: CallOptions, timeoutMsDefault: number, what: string): Deadline {
  const controller = new AbortController();
  const timeoutMs = options.timeoutMs ?? timeoutMsDefault;
  const outer = options.signal;
  const onOuterAbort = () => controller.abort(outer?.reason);
  if (outer?.aborted) onOuterAbort();
  const release = outer && !outer.aborted ? whenAborted(outer, onOuterAbort) : undefined;

  let timedOut: ForkdError | undefined;
  const onTimeout = () => {
    timedOut = new TimeoutError('request_timeout', `${what}: no reply within ${timeoutMs} ms.`);
    controller.abort(timedOut);
  };
  const timer = timeoutMs > 0 ? setTimeout(onTimeout, timeoutMs) : undefined;

  return {
    signal: controller.signal,
    release() {
      clearTimeout(timer);
      release?.();
    },
    explain(error) {
      if (outer?.aborted) return outer.reason;
      return timedOut ?? error;
    },
  };
}

const waiting = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Calls back when `signal` fires. The returned function unsubscribes. All calls share one listener per signal, because Node
 * warns of a leak on stderr if a signal has more than ten.
 */
function whenAborted(signal: AbortSignal, callback: () => void): () => void {
  let callbacks = waiting.get(signal);
  if (!callbacks) {
    const calls = new Set<() => void>();
    waiting.set(signal, (callbacks = calls));
    signal.addEventListener('abort', () => calls.forEach((call) => call()), { once: true });
  }
  callbacks.add(callback);
  return () => {
    callbacks.delete(callback);
  };
}

/** Resolves after `ms`, or rejects with the signal's reason. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** Waits for work that other callers may wait for too. If the signal fires first, rejects with its reason; the work continues. */
export async function unlessAborted<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  let unsubscribe: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else unsubscribe = whenAborted(signal, () => reject(signal.reason));
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    unsubscribe?.();
  }
}
