import { ControllerEvent, EventsQuery } from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import { followEvents } from '../../operations/follow-events.ts';
import type { AppParts } from '../app-parts.ts';
import { operationsOf, serverSentEvents } from '../openapi/operation.ts';
import { sendServerSentEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function eventRoutes(instance: FastifyInstance, { run, signals, log }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const schema = { querystring: EventsQuery };
  app.get('/v1/events', { schema, exposeHeadRoute: false, config: described }, (request, reply) => {
    const lastSeen = request.headers['last-event-id'];
    const after = request.query.after ?? (typeof lastSeen === 'string' ? lastSeen : undefined);
    const query = { ...request.query, ...(after !== undefined && { after }) };
    const events = run(followEvents, query, signals.ofStream(reply));
    return sendServerSentEvents<ControllerEvent>(reply, log, events);
  });
}

const described = operationsOf('host')('events', 'Streams changes of sandboxes, snapshots and workspaces.', {
  description:
    'Server-sent events. A reader that was disconnected can continue after the last event that it received. If later events ' +
    'are lost, the first event is `events.gap`, and the reader must read the lists again.',
  resumable: true,
  replies: {
    200: serverSentEvents('The events, one per `data`. Comments keep the connection alive.', ControllerEvent),
  },
  errors: [],
});
