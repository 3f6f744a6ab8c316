import { ForkdClient } from './client.ts';
import type { ConnectionOptions } from './connection.ts';
import type { CallOptions } from './deadline.ts';

/**
 * What every operation of a resource takes.
 * Two clocks, never mixed: `requestTimeoutMs` is for the request; `timeoutMs`, where there is one, for what the request is
 * about: the life of a sandbox, the run of a command, the evaluation.
 */
export type RequestOptions = {
  /** Gives the operation up, which then rejects with the signal's own reason. */
  signal?: AbortSignal | undefined;
  /** In milliseconds, for the whole request with its retries and its body; 0 is no limit. Default: what the route may take. */
  requestTimeoutMs?: number | undefined;
};

/** How a static call finds its controller: a client that is there, or what makes one. */
export type ClientOptions = RequestOptions & ConnectionOptions & { client?: ForkdClient | undefined };

export function clientFrom(options: ClientOptions): ForkdClient {
  return options.client ?? new ForkdClient(options);
}

export function callOptions(options: RequestOptions): CallOptions {
  return { signal: options.signal, timeoutMs: options.requestTimeoutMs };
}

/** The wire counts in whole seconds: rounded up, so that nothing ends before its time. */
export function wholeSecs(ms: number): number {
  return Math.ceil(ms / 1000);
}
