import { ForkdClient } from './client.ts';
import type { ConnectionOptions } from './connection.ts';
import type { CallOptions } from './deadline.ts';
import { environment } from './platform.ts';

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

/** The client of the last static call, with what it was made from: those that ask the same controller share its connections. */
let last: { made: string; client: ForkdClient } | undefined;

export function clientFrom(options: ClientOptions): ForkdClient {
  if (options.client) return options.client;
  if (options.fetch) return new ForkdClient(options);
  const env = environment();
  const variables = [env['FORKD_URL'], env['FORKD_SOCKET'], env['FORKD_TOKEN']];
  const made = JSON.stringify([options.url, options.socket, options.token, ...variables]);
  if (last?.made !== made) last = { made, client: new ForkdClient(options) };
  return last.client;
}

export function callOptions(options: RequestOptions): CallOptions {
  return { signal: options.signal, timeoutMs: options.requestTimeoutMs };
}

/** The wire counts in whole seconds: rounded up, so that nothing ends before its time. */
export function wholeSecs(ms: number): number {
  return Math.ceil(ms / 1000);
}
