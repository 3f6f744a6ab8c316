import { ForkdError, TimeoutError } from './errors.ts';

/**
 * What every method of the wire takes. `timeoutMs` bounds the whole request, its retries and its body included; 0 is no limit.
 * The wire knows no other clock: what bounds a sandbox or a command is a field of the request, in seconds.
 */
export type CallOptions = { signal?: AbortSignal | undefined; timeoutMs?: number | undefined };

export type Deadline = {
  readonly signal: AbortSignal;
  /** Waits for it no more. To be called when the call is over, however it ended. */
  release(): void;
  /** The error to throw for one that the transport threw: the caller's abort reason, our timeout, or itself. */
  explain(error: unknown): unknown;
};

/**
 * One signal out of the caller's and a timer. Not AbortSignal.any: in Node 20 a composed signal can be collected
 * as garbage while a request still hangs on it, and then never fires.
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
    timedOut = new TimeoutError('request_timeout', `${what}: no answer within ${timeoutMs} ms`);
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
 * Calls back when `signal` fires, until the function that is returned is called. One listener for all calls under a signal: Node
 * takes more than ten for a leak, and says so on stderr.
 */
function whenAborted(signal: AbortSignal, callback: () => void): () => void {
  let callbacks = waiting.get(signal);
  if (!callbacks) {
    const calls = new Set<() => void>();
    waiting.set(signal, (callbacks = calls));
    signal.addEventListener('abort', () => calls.forEach((call) => call()), { once: true });
  }
  callbacks.add(callback);
  return () => void callbacks.delete(callback);
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
