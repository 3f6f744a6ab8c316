import type { ControllerEvent, EventsQuery, EventType } from '@forkd/api';
import { limits } from '@forkd/api';

import { raceAbort } from './deadline.ts';
import { deferred } from './deferred.ts';

/** What an event is about. */
export type Subject = Omit<ControllerEvent, 'id' | 'type' | 'time_unix_ms'>;

/** What happens to sandboxes, snapshots and workspaces, for whoever listens: the latest are kept for those who come back. */
export class EventLog {
  /** Tells the events of one controller from those of the next. */
  readonly #epoch = Date.now().toString(36);
  readonly #kept: ControllerEvent[] = [];
  readonly #listeners = new Set<(event: ControllerEvent) => void>();
  /** Of the latest event. */
  #number = 0;
  #next = deferred<void>();

  emit(type: EventType, subject: Subject): void {
    this.#number += 1;
    const event: ControllerEvent = { ...subject, id: this.#idOf(this.#number), type, time_unix_ms: Date.now() };
    this.#kept.push(event);
    if (this.#kept.length > limits.eventsKeptMax) this.#kept.shift();
    const { resolve } = this.#next;
    this.#next = deferred<void>();
    resolve();
    for (const listener of this.#listeners) listener(event);
  }

  /** Calls `listener` with each event, at once and in order. Returns what ends that. */
  listen(listener: (event: ControllerEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The events after `after`, or from now on, until `signal` fires. A reader whose place is lost, because it was away for
   * too long or because its controller has ended, is told so first, by `events.gap`.
   */
  async *follow({ after, sandbox }: EventsQuery, signal: AbortSignal): AsyncGenerator<ControllerEvent> {
    let seen = after === undefined ? this.#number : this.#numberOf(after);
    while (!signal.aborted) {
      const first = this.#number - this.#kept.length;
      if (seen < first) {
        yield { id: this.#idOf(first), type: 'events.gap', time_unix_ms: Date.now() };
        seen = first;
      }
      const events = this.#kept.slice(seen - first);
      const { promise } = this.#next;
      for (const event of events) {
        if (signal.aborted) return;
        seen += 1;
        if (sandbox === undefined || event.sandbox === sandbox) yield event;
      }
      // Others may have come while the reader took these.
      if (seen < this.#number) continue;
      await raceAbort(promise, signal).catch(() => undefined);
    }
  }

  #idOf(number: number): string {
    return `${this.#epoch}-${number}`;
  }

  /** -1 for one that is not of this controller, which is before all of its own. */
  #numberOf(id: string): number {
    const [epoch, text] = id.split('-');
    const number = Number(text);
    const isOurs = epoch === this.#epoch && Number.isSafeInteger(number) && number >= 0 && number <= this.#number;
    return isOurs ? number : -1;
  }
}
