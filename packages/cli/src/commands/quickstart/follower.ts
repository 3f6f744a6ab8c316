import { CodedError } from '@forkd/api/constants';
import { errorFromEvent, type ForkdClient } from '@forkd/sdk';
import { CounterReader, type CounterState } from './counter.ts';

const WAIT_MS = 120_000;

interface Waiter {
  isMet: (state: CounterState) => boolean;
  resolve: () => void;
}

/** Follows a counter in one sandbox over a single connection. A broken stream is a fault, so there is no reconnect. */
export class Follower {
  readonly reader: CounterReader;
  readonly #abort = new AbortController();
  readonly #done: Promise<void>;
  #waiters: Waiter[] = [];
  #end: Error | undefined;

  constructor(client: ForkdClient, place: { sandboxId: string; commandId: string }, from: CounterState) {
    this.reader = new CounterReader(from);
    this.#done = this.#follow(client, place, from.offset);
  }

  /** Waits until the counter's state meets the condition. Rejects if the output ends first, or after a timeout. */
  async until(isMet: (state: CounterState) => boolean, what: string, signal: AbortSignal): Promise<void> {
    if (isMet(this.reader.state)) return;
    if (this.#end !== undefined) throw this.#end;
    let timer: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        this.#waiters.push({ isMet, resolve });
        this.#done.then(() => reject(this.#end), reject);
        timer = setTimeout(
          () => reject(new CodedError('guest_unreachable', `${what}: not within ${WAIT_MS / 1000} s.`)),
          WAIT_MS,
        );
        onAbort = () => reject(signal.reason);
        signal.addEventListener('abort', onAbort, { once: true });
      });
    } finally {
      clearTimeout(timer);
      if (onAbort) signal.removeEventListener('abort', onAbort);
    }
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#done;
  }

  async #follow(client: ForkdClient, place: { sandboxId: string; commandId: string }, offset: number): Promise<void> {
    const query = { offset, follow: true };
    try {
      const events = client.commandOutput(place.sandboxId, place.commandId, query, { signal: this.#abort.signal });
      for await (const event of events) {
        if (event.type === 'stdout') this.#feed(event.offset, Buffer.from(event.data, 'base64'));
        else if (event.type === 'gap') this.reader.gap(event.from, event.to);
        else if (event.type === 'error') throw errorFromEvent(event);
      }
      this.#end = new CodedError('command_ended', `The counter in ${place.sandboxId} has ended.`);
    } catch (error) {
      this.#end = error instanceof Error ? error : new Error(String(error));
    }
  }

  #feed(offset: number, data: Uint8Array): void {
    this.reader.feed(offset, data);
    const met = this.#waiters.filter((waiter) => waiter.isMet(this.reader.state));
    this.#waiters = this.#waiters.filter((waiter) => !met.includes(waiter));
    for (const waiter of met) waiter.resolve();
  }
}
