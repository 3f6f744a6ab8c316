import { Readable } from 'node:stream';

import {
  BranchRequest,
  CreateSandboxesRequest,
  EvalRequest,
  ExecRequest,
  ListSandboxesQuery,
  LogsQuery,
  SandboxParams,
  UpdateSandboxRequest,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { answerOnce } from '../idempotency.ts';
import type { SchemaTypes } from '../validation.ts';

export function sandboxRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { sandboxes, guests, replies } = services;
  const params = SandboxParams;

  app.get('/v1/sandboxes', { schema: { querystring: ListSandboxesQuery } }, (request) => sandboxes.list(request.query));
  app.get('/v1/sandboxes/:id', { schema: { params } }, (request) => sandboxes.get(request.params.id));
  app.post('/v1/sandboxes', { schema: { body: CreateSandboxesRequest } }, (request, reply) =>
    answerOnce(replies, request, reply, async (requestKey) => {
      const body = await sandboxes.fork(request.body, signals.ofCall(reply), requestKey);
      return { status: Array.isArray(body) ? 201 : 207, body };
    }),
  );
  app.patch('/v1/sandboxes/:id', { schema: { params, body: UpdateSandboxRequest } }, (request) =>
    sandboxes.update(request.params.id, request.body),
  );
  app.post('/v1/sandboxes/:id/pause', { schema: { params } }, (request) => sandboxes.pause(request.params.id));
  app.post('/v1/sandboxes/:id/resume', { schema: { params } }, (request) => sandboxes.resume(request.params.id));
  app.get('/v1/sandboxes/:id/stats', { schema: { params } }, (request) => sandboxes.stats(request.params.id));
  app.get('/v1/sandboxes/:id/logs', { schema: { params, querystring: LogsQuery } }, (request, reply) => {
    const lines = sandboxes.logs(request.params.id, request.query, signals.ofStream(reply));
    return reply.type('text/plain; charset=utf-8').send(Readable.from(lines));
  });
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
  app.post('/v1/sandboxes/:id/branch', { schema: { params, body: BranchRequest } }, (request, reply) =>
    answerOnce(replies, request, reply, async () => {
      const body = await sandboxes.branch(request.params.id, request.body);
      return { status: body.status === 'writing' ? 202 : 201, body };
    }),
  );
  app.get('/v1/sandboxes/:id/memory', { schema: { params } }, (request) => sandboxes.memory(request.params.id));
  app.post('/v1/sandboxes/:id/floor', { schema: { params } }, (request) => sandboxes.floor(request.params.id));
}
