import { ControllerEvent, EventsQuery } from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { operationsOf, serverSentEvents } from '../openapi/operation.ts';
import { sendServerSentEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function eventRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const schema = { querystring: EventsQuery };
  app.get('/v1/events', { schema, exposeHeadRoute: false, config: described }, (request, reply) => {
    const lastSeen = request.headers['last-event-id'];
    const after = request.query.after ?? (typeof lastSeen === 'string' ? lastSeen : undefined);
    const query = { ...request.query, ...(after !== undefined && { after }) };
    const events = services.events(query, signals.ofStream(reply));
    return sendServerSentEvents<ControllerEvent>(reply, events);
  });
}

const described = operationsOf('host')('events', 'What happens to sandboxes, snapshots and workspaces, from now on.', {
  description:
    'Server-sent events. A reader who was cut off goes on after the last event that he had; where some between are lost he ' +
    'gets `events.gap`, and reads the lists anew.',
  resumable: true,
  replies: { 200: serverSentEvents('Each `data` is one event. Comments keep the connection alive.', ControllerEvent) },
  errors: [],
});
