import { setMaxListeners } from 'node:events';
import { ForkdError } from './errors.ts';

/** What every call takes. `timeoutMs` bounds the whole call, its body included; 0 is no limit. */
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
  else if (outer !== undefined) {
    // One signal over many calls at once is how it is meant to be used, not a leak to be warned of.
    setMaxListeners(0, outer);
    outer.addEventListener('abort', onOuterAbort, { once: true });
  }

  let timedOut: ForkdError | undefined;
  const onTimeout = () => {
    timedOut = new ForkdError('request_timeout', `${what}: no answer within ${timeoutMs} ms`);
    controller.abort(timedOut);
  };
  const timer = timeoutMs > 0 ? setTimeout(onTimeout, timeoutMs) : undefined;

  return {
    signal: controller.signal,
    release() {
      clearTimeout(timer);
      outer?.removeEventListener('abort', onOuterAbort);
    },
    explain(error) {
      if (outer?.aborted) return outer.reason;
      return timedOut ?? error;
    },
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
