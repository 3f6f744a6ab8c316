import { ForkdClient } from './client.ts';
import type { ConnectionOptions } from './connection.ts';
import type { CallOptions } from './deadline.ts';

/** How a static call finds its controller: a client that is there, or what makes one. */
export type ClientOptions = CallOptions & ConnectionOptions & { client?: ForkdClient | undefined };

export function clientFrom(options: ClientOptions): ForkdClient {
  return options.client ?? new ForkdClient(options);
}

export function callOptions(options: ClientOptions): CallOptions {
  return { signal: options.signal, timeoutMs: options.timeoutMs };
}
