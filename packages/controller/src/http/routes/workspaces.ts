import {
  CreateWorkspaceRequest,
  SuspendWorkspaceRequest,
  WorkspaceInfo,
  WorkspaceList,
  WorkspaceParams,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import {
  createWorkspace,
  getWorkspace,
  listWorkspaces,
  removeWorkspace,
  resumeWorkspace,
  suspendWorkspace,
} from '../../operations/workspaces.ts';
import type { AppParts } from '../app-parts.ts';
import { pagerErrors, startErrors, storeErrors } from '../openapi/errors.ts';
import { json, nothing, operationsOf } from '../openapi/operation.ts';
import type { SchemaTypes } from '../validation.ts';

export function workspaceRoutes(instance: FastifyInstance, { run, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const params = WorkspaceParams;

  app.get('/v1/workspaces', { config: described.list }, () => run(listWorkspaces));
  app.get('/v1/workspaces/:name', { schema: { params }, config: described.get }, (request) =>
    run(getWorkspace, request.params.name),
  );
  app.post(
    '/v1/workspaces',
    { schema: { body: CreateWorkspaceRequest }, config: described.create },
    async (request, reply) => reply.code(201).send(await run(createWorkspace, request.body, signals.ofCall(reply))),
  );
  app.delete('/v1/workspaces/:name', { schema: { params }, config: described.remove }, async (request, reply) => {
    await run(removeWorkspace, request.params.name);
    return reply.code(204).send();
  });
  // A suspension gets no signal, because it continues if its caller disconnects.
  const suspension = { schema: { params, body: SuspendWorkspaceRequest }, config: described.suspend };
  app.post('/v1/workspaces/:name/suspend', suspension, (request) => run(suspendWorkspace, request.params.name));
  app.post('/v1/workspaces/:name/resume', { schema: { params }, config: described.resume }, (request, reply) =>
    run(resumeWorkspace, request.params.name, signals.ofCall(reply)),
  );
}

const operation = operationsOf('workspaces');
const found = ['not_found_workspace'] as const;
const starting = [...startErrors, 'not_found_snapshot', 'not_forkable'] as const;

/** Fields in which the example of a suspended workspace differs. */
const suspended = { status: 'suspended', current_state_tag: 'ws-91c2e07a4d-1', live_sandbox_id: undefined };

const described = {
  list: operation('listWorkspaces', 'Lists the workspaces.', {
    replies: { 200: json('The workspaces.', WorkspaceList) },
    errors: [],
  }),
  get: operation('getWorkspace', 'Gets a workspace.', {
    replies: { 200: json('The workspace.', WorkspaceInfo) },
    errors: found,
  }),
  create: operation('createWorkspace', 'Creates a workspace and starts its first sandbox.', {
    replies: { 201: json('The workspace is running.', WorkspaceInfo) },
    errors: [...starting, 'workspace_exists', 'workspace_busy', 'name_taken'],
  }),
  remove: operation('deleteWorkspace', 'Deletes a workspace: ends its sandbox and removes its saved state.', {
    description: 'The snapshot that the workspace was created from is kept.',
    replies: { 204: nothing('The workspace is gone.') },
    errors: [...found, ...storeErrors, 'workspace_busy', 'has_dependents', 'snapshot_in_flight'],
  }),
  suspend: operation(
    'suspendWorkspace',
    'Suspends a workspace: takes a snapshot of its sandbox and ends the sandbox.',
    {
      replies: { 200: json('The workspace is suspended.', WorkspaceInfo, suspended) },
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
    },
  ),
  resume: operation('resumeWorkspace', 'Resumes a workspace: starts a sandbox from its saved state.', {
    replies: { 200: json('The workspace is running.', WorkspaceInfo) },
    errors: [...starting, ...found, 'workspace_busy'],
  }),
};
