import type { ControllerEvent, EventsQuery } from '@forkd/api';
import type { Host } from './host.ts';

/** The events from now on, or after the event `after`, until the signal fires. */
export function followEvents(
  { events }: Pick<Host, 'events'>,
  query: EventsQuery,
  signal: AbortSignal,
): AsyncGenerator<ControllerEvent> {
  return events.follow(query, signal);
}
