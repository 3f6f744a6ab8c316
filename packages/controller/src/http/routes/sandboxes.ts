import { Readable } from 'node:stream';

import {
  BranchRequest,
  CreateSandboxesRequest,
  EvalRequest,
  EvalResponse,
  ExecRequest,
  ExecResponse,
  FloorInfo,
  ListSandboxesQuery,
  LogsQuery,
  MemoryInfo,
  PartialForkResponse,
  PingResponse,
  SandboxInfo,
  SandboxList,
  SandboxParams,
  SandboxStats,
  SnapshotInfo,
  UpdateSandboxRequest,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import { Type } from 'typebox';

import type { AppParts } from '../app-parts.ts';
import { answerOnce } from '../idempotency.ts';
import { guestErrors, pagerErrors, sandboxErrors, startErrors, storeErrors } from '../openapi/errors.ts';
import { bytes, json, nothing, operationsOf } from '../openapi/operation.ts';
import type { SchemaTypes } from '../validation.ts';

export function sandboxRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { sandboxes, guests, replies } = services;
  const params = SandboxParams;

  const { list, get, fork } = described;
  app.get('/v1/sandboxes', { schema: { querystring: ListSandboxesQuery }, config: list }, (request) =>
    sandboxes.list(request.query),
  );
  app.get('/v1/sandboxes/:id', { schema: { params }, config: get }, (request) => sandboxes.get(request.params.id));
  app.post('/v1/sandboxes', { schema: { body: CreateSandboxesRequest }, config: fork }, (request, reply) =>
    answerOnce(replies, request, reply, async (requestKey) => {
      const body = await sandboxes.fork(request.body, signals.ofCall(reply), requestKey);
      return { status: Array.isArray(body) ? 201 : 207, body };
    }),
  );
  const update = { schema: { params, body: UpdateSandboxRequest }, config: described.update };
  app.patch('/v1/sandboxes/:id', update, (request) => sandboxes.update(request.params.id, request.body));
  app.post('/v1/sandboxes/:id/pause', { schema: { params }, config: described.pause }, (request) =>
    sandboxes.pause(request.params.id),
  );
  app.post('/v1/sandboxes/:id/resume', { schema: { params }, config: described.resume }, (request) =>
    sandboxes.resume(request.params.id),
  );
  app.get('/v1/sandboxes/:id/stats', { schema: { params }, config: described.stats }, (request) =>
    sandboxes.stats(request.params.id),
  );
  const logs = { schema: { params, querystring: LogsQuery }, exposeHeadRoute: false, config: described.logs };
  app.get('/v1/sandboxes/:id/logs', logs, (request, reply) => {
    const lines = sandboxes.logs(request.params.id, request.query, signals.ofStream(reply));
    return reply.type('text/plain; charset=utf-8').send(Readable.from(lines));
  });
  app.delete('/v1/sandboxes/:id', { schema: { params }, config: described.end }, async (request, reply) => {
    await sandboxes.end(request.params.id);
    return reply.code(204).send();
  });

  app.post('/v1/sandboxes/:id/ping', { schema: { params }, config: described.ping }, (request, reply) =>
    guests.ping(request.params.id, signals.ofCall(reply)),
  );
  const exec = { schema: { params, body: ExecRequest }, config: described.exec };
  app.post('/v1/sandboxes/:id/exec', exec, (request, reply) =>
    guests.exec(request.params.id, request.body, signals.ofCall(reply)),
  );
  const evaluation = { schema: { params, body: EvalRequest }, config: described.eval };
  app.post('/v1/sandboxes/:id/eval', evaluation, (request, reply) =>
    guests.eval(request.params.id, request.body, signals.ofCall(reply)),
  );

  // Without a signal: a branch goes on when its caller leaves.
  const branch = { schema: { params, body: BranchRequest }, config: described.branch };
  app.post('/v1/sandboxes/:id/branch', branch, (request, reply) =>
    answerOnce(replies, request, reply, async (requestKey) => {
      const body = await sandboxes.branch(request.params.id, request.body, requestKey);
      return { status: body.status === 'writing' ? 202 : 201, body };
    }),
  );
  app.get('/v1/sandboxes/:id/memory', { schema: { params }, config: described.memory }, (request) =>
    sandboxes.memory(request.params.id),
  );
  app.post('/v1/sandboxes/:id/floor', { schema: { params }, config: described.floor }, (request) =>
    sandboxes.floor(request.params.id),
  );
}

const operation = operationsOf('sandboxes');
const asked = [...sandboxErrors, ...pagerErrors] as const;
const printed = Type.Object({ stdout: Type.Optional(Type.String()), stderr: Type.Optional(Type.String()) });

const described = {
  list: operation('listSandboxes', 'The sandboxes that match all that is given.', {
    replies: { 200: json('They.', SandboxList) },
    errors: [],
  }),
  get: operation('getSandbox', 'A sandbox, by its id or its name.', {
    replies: { 200: json('The sandbox.', SandboxInfo) },
    errors: sandboxErrors,
  }),
  fork: operation('createSandboxes', 'Starts sandboxes from a snapshot.', {
    description: 'All of them or none, unless `partial` is asked for.',
    idempotent: true,
    replies: {
      201: json('All of them run.', SandboxList),
      207: json('With `partial`: some run, and of the others it is said why not.', PartialForkResponse),
    },
    errors: [...startErrors, 'not_found_snapshot', 'not_forkable', 'name_taken'],
  }),
  update: operation('updateSandbox', 'Changes the name, the labels and the time to live of a sandbox.', {
    replies: { 200: json('The sandbox as it is now.', SandboxInfo) },
    errors: [...sandboxErrors, 'name_taken', 'disk_full'],
  }),
  pause: operation('pauseSandbox', 'Stops the processors of a sandbox, whose memory stays.', {
    replies: { 200: json('It is paused, perhaps since before.', SandboxInfo) },
    errors: [...asked, 'branch_in_flight', 'disk_full'],
  }),
  resume: operation('resumeSandbox', 'Lets a paused sandbox go on.', {
    replies: { 200: json('It runs, perhaps since before.', SandboxInfo) },
    errors: [...asked, 'branch_in_flight', 'disk_full'],
  }),
  stats: operation('sandboxStats', 'What a sandbox has used since it was started.', {
    replies: { 200: json('So much.', SandboxStats) },
    errors: asked,
  }),
  logs: operation('sandboxLogs', 'The console of the guest.', {
    replies: { 200: bytes('Its last bytes, and with `follow` what comes after.', 'text/plain') },
    errors: sandboxErrors,
  }),
  end: operation('deleteSandbox', 'Ends a sandbox.', {
    replies: { 204: nothing('It is gone.') },
    errors: sandboxErrors,
  }),
  ping: operation('ping', 'Whether the guest answers.', {
    replies: { 200: json('It does.', PingResponse) },
    errors: guestErrors,
  }),
  exec: operation('exec', 'Runs a command to its end.', {
    replies: { 200: json('It has ended, with whatever exit code.', ExecResponse) },
    errors: [...guestErrors, 'command_timeout', 'bad_path', 'not_found_file', 'not_a_directory', 'permission_denied'],
    details: { command_timeout: printed },
  }),
  eval: operation('eval', 'Evaluates Python in the warm interpreter of the sandbox.', {
    replies: { 200: json('The value of the last expression, or the traceback.', EvalResponse) },
    errors: [...guestErrors, 'command_timeout', 'unsupported'],
    details: { command_timeout: printed },
  }),
  branch: operation('branchSandbox', 'Makes a snapshot of a running sandbox.', {
    description:
      'At most one branch of a sandbox at a time. `diff`, `live` and `measure_diff` are older words for `mode`, and exclude ' +
      'it and each other. The branch goes on when its caller leaves.',
    idempotent: true,
    replies: {
      201: json('It can be forked from.', SnapshotInfo),
      202: json('The sandbox runs again, and the snapshot is still being written.', SnapshotInfo),
    },
    errors: [
      ...asked,
      ...storeErrors,
      'out_of_memory',
      'unsupported',
      'tag_exists',
      'snapshot_in_flight',
      'branch_in_flight',
      'branch_cap',
      'branch_failed',
      'guest_unreachable',
    ],
  }),
  memory: operation('sandboxMemory', 'How much memory of a sandbox is its own, and how much it shares.', {
    replies: { 200: json('As resident now.', MemoryInfo) },
    errors: asked,
  }),
  floor: operation('measureFloor', 'Pauses a sandbox as a branch does, and does nothing in the pause.', {
    replies: { 200: json('The least that a branch could cost here.', FloorInfo) },
    errors: [...asked, 'sandbox_paused', 'branch_in_flight', 'unsupported'],
  }),
};
