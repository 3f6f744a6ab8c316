import { ForkdClient } from './client.ts';
import type { ConnectionOptions } from './connection.ts';
import type { CallOptions } from './deadline.ts';
import { environment } from './platform.ts';

/**
 * Options of every operation.
 * Requests have two clocks: `requestTimeoutMs` bounds the request. `timeoutMs`, where it exists, bounds the subject of the
 * request: the life of a sandbox, the run of a command, the evaluation.
 */
export interface RequestOptions {
  /** Aborts the operation, which then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Bounds the whole request, with its retries and its body, in milliseconds. 0: no limit. The default depends on the route. */
  requestTimeoutMs?: number | undefined;
}

/** Tells a static call its controller: an existing client, or the options to make one. */
export type ClientOptions = RequestOptions & ConnectionOptions & { client?: ForkdClient | undefined };

/** The client of the last static call, and its options. Calls to the same controller share its connections. */
let last: { made: string; client: ForkdClient } | undefined;

export function clientFrom(options: ClientOptions): ForkdClient {
  if (options.client) return options.client;
  if (options.fetch) return new ForkdClient(options);
  const env = environment();
  const variables = ['URL', 'SOCKET', 'TOKEN', 'DATA_DIR'].map((name) => env[`FORKD_${name}`]);
  const made = JSON.stringify([options.url, options.socket, options.token, ...variables]);
  if (last?.made !== made) last = { made, client: new ForkdClient(options) };
  return last.client;
}

export function callOptions(options: RequestOptions): CallOptions {
  return { signal: options.signal, timeoutMs: options.requestTimeoutMs };
}

/** The API counts in whole seconds. Rounding up lets nothing end early. */
export function wholeSecs(ms: number): number {
  return Math.ceil(ms / 1000);
}
