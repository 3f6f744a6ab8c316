import {
  CommandOutputQuery,
  CommandParams,
  CommandStdinQuery,
  SandboxParams,
  SignalRequest,
  StartCommandRequest,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import { sendEvents, wantsEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

const base = '/v1/sandboxes/:id/commands';

export function commandRoutes(instance: FastifyInstance, { services, signals, log }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { guests } = services;
  const params = CommandParams;

  app.get(base, { schema: { params: SandboxParams } }, (request, reply) =>
    guests.list(request.params.id, signals.ofCall(reply)),
  );
  app.post(base, { schema: { params: SandboxParams, body: StartCommandRequest } }, async (request, reply) => {
    const { id } = request.params;
    if (request.body.follow !== true && !wantsEvents(request)) {
      return reply.code(201).send(await guests.start(id, request.body, signals.ofCall(reply)));
    }
    return sendEvents(reply, log, guests.startAndFollow(id, request.body, signals.ofStream(reply)));
  });
  app.get(`${base}/:cid`, { schema: { params } }, (request, reply) =>
    guests.get(request.params.id, request.params.cid, signals.ofCall(reply)),
  );
  app.delete(`${base}/:cid`, { schema: { params } }, async (request, reply) => {
    await guests.forget(request.params.id, request.params.cid, signals.ofCall(reply));
    return reply.code(204).send();
  });

  app.get(`${base}/:cid/output`, { schema: { params, querystring: CommandOutputQuery } }, (request, reply) => {
    const { id, cid } = request.params;
    return sendEvents(reply, log, guests.output(id, cid, request.query, signals.ofStream(reply)));
  });
  app.post(`${base}/:cid/signal`, { schema: { params, body: SignalRequest } }, async (request, reply) => {
    const { id, cid } = request.params;
    await guests.signal(id, cid, request.body.signal, signals.ofCall(reply));
    return reply.code(204).send();
  });

  withRawBodies(instance, (raw) => {
    const typed = raw.withTypeProvider<SchemaTypes>();
    const schema = { params, querystring: CommandStdinQuery };
    typed.post(`${base}/:cid/stdin`, { schema }, async (request, reply) => {
      const { id, cid } = request.params;
      const close = request.query.close ?? false;
      await guests.writeStdin(id, cid, rawBody(request), close, signals.ofCall(reply));
      return reply.code(204).send();
    });
  });
}
