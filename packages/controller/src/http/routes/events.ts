import type { ControllerEvent } from '@forkd/api';
import { EventsQuery } from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { sendServerSentEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function eventRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  app.get('/v1/events', { schema: { querystring: EventsQuery } }, (request, reply) => {
    const lastSeen = request.headers['last-event-id'];
    const after = request.query.after ?? (typeof lastSeen === 'string' ? lastSeen : undefined);
    const query = { ...request.query, ...(after !== undefined && { after }) };
    const events = services.events(query, signals.ofStream(reply));
    return sendServerSentEvents<ControllerEvent>(reply, events);
  });
}
