import type { ControllerEvent } from '@forkd/api';
import type { ForkdClient } from './client.ts';
import { sleep } from './deadline.ts';
import { ForkdError } from './errors.ts';
import { callOptions, clientFrom, type ClientOptions } from './options.ts';

export type EventsOptions = Omit<ClientOptions, 'requestTimeoutMs'> & {
  /** Only events of the sandbox with this id. */
  sandbox?: string | undefined;
  /** Only events after the one with this id. Default: events from now on. */
  after?: string | undefined;
};

const DELAY_MS_MIN = 100;
const DELAY_MS_MAX = 5_000;
/** A controller that restarts answers again within this time. */
const UNREACHABLE_MS_MAX = 60_000;
const PASSING_STATUS = new Set([502, 503, 504]);

/**
 * Events of sandboxes, snapshots and workspaces, in order, until the reader stops or the signal aborts.
 * After a disconnect the stream resumes from the last event that was read. An event of type `events.gap` reports events that
 * the controller no longer had: list the resources again. Rejects after a minute without a controller.
 */
export class Events implements AsyncIterable<ControllerEvent> {
  readonly #client: ForkdClient;
  readonly #options: EventsOptions;
  #lastId: string | undefined;

  constructor(options: EventsOptions = {}) {
    this.#client = clientFrom(options);
    this.#options = options;
    this.#lastId = options.after;
  }

  /** The id of the last event that was read. Pass it as `after` to resume later. */
  get lastId(): string | undefined {
    return this.#lastId;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ControllerEvent> {
    const { signal } = this.#options;
    let delayMs = DELAY_MS_MIN;
    let answeredMs = performance.now();
    for (;;) {
      try {
        for await (const event of this.#connect()) {
          this.#lastId = event.id;
          yield event;
          delayMs = DELAY_MS_MIN;
          answeredMs = performance.now();
        }
        // A stream that ended without events was still served, so the controller is reachable.
        answeredMs = performance.now();
      } catch (error) {
        if (signal?.aborted || !isPassing(error)) throw error;
        if (performance.now() - answeredMs > UNREACHABLE_MS_MAX) throw error;
      }
      await sleep(delayMs, signal);
      delayMs = Math.min(delayMs * 2, DELAY_MS_MAX);
    }
  }

  #connect(): AsyncGenerator<ControllerEvent> {
    const { sandbox } = this.#options;
    const query: { after?: string; sandbox?: string } = {};
    if (sandbox !== undefined) query.sandbox = sandbox;
    if (this.#lastId !== undefined) query.after = this.#lastId;
    return this.#client.events(query, callOptions({ signal: this.#options.signal }));
  }
}

function isPassing(error: unknown): boolean {
  if (!(error instanceof ForkdError)) return false;
  return error.code === 'stream_cut' || error.code === 'connection_failed' || PASSING_STATUS.has(error.status);
}
