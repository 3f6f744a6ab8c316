import {
  CreateWorkspaceRequest,
  SuspendWorkspaceRequest,
  WorkspaceInfo,
  WorkspaceList,
  WorkspaceParams,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { pagerErrors, startErrors, storeErrors } from '../openapi/errors.ts';
import { json, nothing, operationsOf } from '../openapi/operation.ts';
import type { SchemaTypes } from '../validation.ts';

export function workspaceRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { workspaces } = services;
  const params = WorkspaceParams;

  app.get('/v1/workspaces', { config: described.list }, () => workspaces.list());
  app.get('/v1/workspaces/:name', { schema: { params }, config: described.get }, (request) =>
    workspaces.get(request.params.name),
  );
  app.post(
    '/v1/workspaces',
    { schema: { body: CreateWorkspaceRequest }, config: described.create },
    async (request, reply) => reply.code(201).send(await workspaces.create(request.body, signals.ofCall(reply))),
  );
  app.delete('/v1/workspaces/:name', { schema: { params }, config: described.remove }, async (request, reply) => {
    await workspaces.remove(request.params.name);
    return reply.code(204).send();
  });
  // Without a signal: a suspension goes on when its caller leaves.
  const suspension = { schema: { params, body: SuspendWorkspaceRequest }, config: described.suspend };
  app.post('/v1/workspaces/:name/suspend', suspension, (request) => workspaces.suspend(request.params.name));
  app.post('/v1/workspaces/:name/resume', { schema: { params }, config: described.resume }, (request, reply) =>
    workspaces.resume(request.params.name, signals.ofCall(reply)),
  );
}

const operation = operationsOf('workspaces');
const found = ['not_found_workspace'] as const;
const starting = [...startErrors, 'not_found_snapshot', 'not_forkable'] as const;

const described = {
  list: operation('listWorkspaces', 'The workspaces.', {
    replies: { 200: json('They.', WorkspaceList) },
    errors: [],
  }),
  get: operation('getWorkspace', 'A workspace.', {
    replies: { 200: json('The workspace.', WorkspaceInfo) },
    errors: found,
  }),
  create: operation('createWorkspace', 'Makes a workspace, and starts its first sandbox.', {
    replies: { 201: json('It runs.', WorkspaceInfo) },
    errors: [...starting, 'workspace_exists', 'workspace_busy'],
  }),
  remove: operation('deleteWorkspace', 'Ends the sandbox of a workspace and removes its state.', {
    description: 'The snapshot that it was made from stays.',
    replies: { 204: nothing('It is gone.') },
    errors: [...found, ...storeErrors, 'workspace_busy', 'has_dependents', 'snapshot_in_flight'],
  }),
  suspend: operation('suspendWorkspace', 'Makes a snapshot of the sandbox of a workspace, and ends the sandbox.', {
    replies: { 200: json('It is suspended.', WorkspaceInfo) },
    errors: [
      ...found,
      ...pagerErrors,
      ...storeErrors,
      'workspace_busy',
      'workspace_not_running',
      'branch_cap',
      'branch_in_flight',
      'branch_failed',
      'out_of_memory',
    ],
  }),
  resume: operation('resumeWorkspace', 'Starts a sandbox from the state of a workspace.', {
    replies: { 200: json('It runs.', WorkspaceInfo) },
    errors: [...starting, ...found, 'workspace_busy'],
  }),
};
