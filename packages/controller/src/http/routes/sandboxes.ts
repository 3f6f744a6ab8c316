import { BranchRequest, CreateSandboxesRequest, EvalRequest, ExecRequest, SandboxParams } from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import type { SchemaTypes } from '../validation.ts';

export function sandboxRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { sandboxes, guests } = services;
  const params = SandboxParams;

  app.get('/v1/sandboxes', () => sandboxes.list());
  app.get('/v1/sandboxes/:id', { schema: { params } }, (request) => sandboxes.get(request.params.id));
  app.post('/v1/sandboxes', { schema: { body: CreateSandboxesRequest } }, async (request, reply) =>
    reply.code(201).send(await sandboxes.fork(request.body, signals.ofCall(reply))),
  );
  app.delete('/v1/sandboxes/:id', { schema: { params } }, async (request, reply) => {
    await sandboxes.end(request.params.id);
    return reply.code(204).send();
  });

  app.post('/v1/sandboxes/:id/ping', { schema: { params } }, (request, reply) =>
    guests.ping(request.params.id, signals.ofCall(reply)),
  );
  app.post('/v1/sandboxes/:id/exec', { schema: { params, body: ExecRequest } }, (request, reply) =>
    guests.exec(request.params.id, request.body, signals.ofCall(reply)),
  );
  app.post('/v1/sandboxes/:id/eval', { schema: { params, body: EvalRequest } }, (request, reply) =>
    guests.eval(request.params.id, request.body, signals.ofCall(reply)),
  );

  // Without a signal: a branch goes on when its caller leaves.
  app.post('/v1/sandboxes/:id/branch', { schema: { params, body: BranchRequest } }, async (request, reply) => {
    const snapshot = await sandboxes.branch(request.params.id, request.body);
    return reply.code(snapshot.status === 'writing' ? 202 : 201).send(snapshot);
  });
  app.get('/v1/sandboxes/:id/memory', { schema: { params } }, (request) => sandboxes.memory(request.params.id));
  app.post('/v1/sandboxes/:id/floor', { schema: { params } }, (request) => sandboxes.floor(request.params.id));
}
