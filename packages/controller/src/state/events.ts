import { type ControllerEvent, type EventsQuery, type EventType, limits } from '@forkd/api';
import { raceAbort } from '../deadline.ts';
import { deferred } from '../deferred.ts';

/** The sandbox, snapshot or workspace of an event, and the reason if there is one. */
export type Subject = Omit<ControllerEvent, 'id' | 'type' | 'time_unix_ms'>;

/** The events of sandboxes, snapshots and workspaces. The latest are kept for listeners that come back. */
export class EventLog {
  /** Distinguishes the events of one controller from those of the next. */
  readonly #epoch = Date.now().toString(36);
  readonly #kept: ControllerEvent[] = [];
  readonly #listeners = new Set<(event: ControllerEvent) => void>();
  /** The number of the latest event. */
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

  /** Calls `listener` with each event, at once and in order. Returns a function that stops this. */
  listen(listener: (event: ControllerEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The events after `after`, or from now on, until `signal` fires. A reader that was away for too long, or whose controller
   * has ended, has lost its place. `events.gap` tells it so first.
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
      // More events may have come while the reader took these.
      if (seen < this.#number) continue;
      await raceAbort(promise, signal).catch(() => undefined);
    }
  }

  #idOf(number: number): string {
    return `${this.#epoch}-${number}`;
  }

  /** Returns -1 for an event of another controller, which comes before all events of this one. */
  #numberOf(id: string): number {
    const [epoch, text] = id.split('-');
    const number = Number(text);
    const isOurs = epoch === this.#epoch && Number.isSafeInteger(number) && number >= 0 && number <= this.#number;
    return isOurs ? number : -1;
  }
}
