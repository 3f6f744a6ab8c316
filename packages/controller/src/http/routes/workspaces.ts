import { CreateWorkspaceRequest, SuspendWorkspaceRequest, WorkspaceParams } from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import type { SchemaTypes } from '../validation.ts';

export function workspaceRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { workspaces } = services;
  const params = WorkspaceParams;

  app.get('/v1/workspaces', () => workspaces.list());
  app.get('/v1/workspaces/:name', { schema: { params } }, (request) => workspaces.get(request.params.name));
  app.post('/v1/workspaces', { schema: { body: CreateWorkspaceRequest } }, async (request, reply) =>
    reply.code(201).send(await workspaces.create(request.body, signals.ofCall(reply))),
  );
  app.delete('/v1/workspaces/:name', { schema: { params } }, async (request, reply) => {
    await workspaces.remove(request.params.name);
    return reply.code(204).send();
  });
  // Without a signal: a suspension goes on when its caller leaves.
  app.post('/v1/workspaces/:name/suspend', { schema: { params, body: SuspendWorkspaceRequest } }, (request) =>
    workspaces.suspend(request.params.name),
  );
  app.post('/v1/workspaces/:name/resume', { schema: { params } }, (request, reply) =>
    workspaces.resume(request.params.name, signals.ofCall(reply)),
  );
}
