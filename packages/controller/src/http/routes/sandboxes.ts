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
import { branch } from '../../operations/branch.ts';
import { readConsole } from '../../operations/console-log.ts';
import { evaluate, exec, ping } from '../../operations/exec.ts';
import { fork, undoFork } from '../../operations/fork.ts';
import { getMemory, getSandbox, getStats, measureFloor } from '../../operations/inspect.ts';
import { endSandbox, pause, resume, updateSandbox } from '../../operations/lifecycle.ts';
import { listSandboxes } from '../../operations/list.ts';
import type { AppParts } from '../app-parts.ts';
import { answerOnce } from '../idempotency.ts';
import { guestErrors, pagerErrors, sandboxErrors, startErrors, storeErrors } from '../openapi/errors.ts';
import { bytes, json, nothing, operationsOf } from '../openapi/operation.ts';
import { sendLarge, sendList } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function sandboxRoutes(instance: FastifyInstance, { run, replies, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const params = SandboxParams;

  app.get('/v1/sandboxes', { schema: { querystring: ListSandboxesQuery }, config: described.list }, (request, reply) =>
    sendList(reply, run(listSandboxes, request.query)),
  );
  app.get('/v1/sandboxes/:id', { schema: { params }, config: described.get }, (request) =>
    run(getSandbox, request.params.id),
  );
  app.post('/v1/sandboxes', { schema: { body: CreateSandboxesRequest }, config: described.fork }, (request, reply) =>
    answerOnce({ replies, signals }, request, reply, async (requestKey, signal) => {
      const body = await run(fork, request.body, signal, requestKey);
      return { status: Array.isArray(body) ? 201 : 207, body, undo: () => run(undoFork, body) };
    }),
  );
  const updating = { schema: { params, body: UpdateSandboxRequest }, config: described.update };
  app.patch('/v1/sandboxes/:id', updating, (request) => run(updateSandbox, request.params.id, request.body));
  app.post('/v1/sandboxes/:id/pause', { schema: { params }, config: described.pause }, (request) =>
    run(pause, request.params.id),
  );
  app.post('/v1/sandboxes/:id/resume', { schema: { params }, config: described.resume }, (request) =>
    run(resume, request.params.id),
  );
  app.get('/v1/sandboxes/:id/stats', { schema: { params }, config: described.stats }, (request) =>
    run(getStats, request.params.id),
  );
  const logs = { schema: { params, querystring: LogsQuery }, exposeHeadRoute: false, config: described.logs };
  app.get('/v1/sandboxes/:id/logs', logs, (request, reply) => {
    const lines = run(readConsole, request.params.id, request.query, signals.ofStream(reply));
    return reply.type('text/plain; charset=utf-8').send(Readable.from(lines));
  });
  app.delete('/v1/sandboxes/:id', { schema: { params }, config: described.end }, async (request, reply) => {
    await run(endSandbox, request.params.id);
    return reply.code(204).send();
  });

  app.post('/v1/sandboxes/:id/ping', { schema: { params }, config: described.ping }, (request, reply) =>
    run(ping, request.params.id, signals.ofCall(reply)),
  );
  const execution = { schema: { params, body: ExecRequest }, config: described.exec };
  app.post('/v1/sandboxes/:id/exec', execution, async (request, reply) =>
    sendLarge(reply, await run(exec, request.params.id, request.body, signals.ofCall(reply))),
  );
  const evaluation = { schema: { params, body: EvalRequest }, config: described.eval };
  app.post('/v1/sandboxes/:id/eval', evaluation, async (request, reply) =>
    sendLarge(reply, await run(evaluate, request.params.id, request.body, signals.ofCall(reply))),
  );

  // A branch gets no signal, because it continues if its caller disconnects.
  const branching = { schema: { params, body: BranchRequest }, config: described.branch };
  app.post('/v1/sandboxes/:id/branch', branching, (request, reply) =>
    answerOnce({ replies, signals }, request, reply, async (requestKey) => {
      const body = await run(branch, request.params.id, request.body, requestKey);
      return { status: body.status === 'writing' ? 202 : 201, body };
    }),
  );
  app.get('/v1/sandboxes/:id/memory', { schema: { params }, config: described.memory }, (request) =>
    run(getMemory, request.params.id),
  );
  app.post('/v1/sandboxes/:id/floor', { schema: { params }, config: described.floor }, (request) =>
    run(measureFloor, request.params.id),
  );
}

const operation = operationsOf('sandboxes');
const asked = [...sandboxErrors, ...pagerErrors] as const;
/** Fields with the beginning of the output, and how much of it was left out. */
const printed = Type.Partial(
  Type.Pick(ExecResponse, ['stdout', 'stderr', 'truncated', 'stdout_dropped_bytes', 'stderr_dropped_bytes']),
);

const described = {
  list: operation('listSandboxes', 'Lists the sandboxes that match all given filters.', {
    replies: { 200: json('The matching sandboxes.', SandboxList) },
    errors: [],
  }),
  get: operation('getSandbox', 'Gets a sandbox by its id or its name.', {
    replies: { 200: json('The sandbox.', SandboxInfo) },
    errors: sandboxErrors,
  }),
  fork: operation('createSandboxes', 'Forks a snapshot: starts sandboxes from it.', {
    description: 'Either all sandboxes start or none, unless `partial` is set.',
    idempotent: true,
    replies: {
      201: json('All sandboxes have started.', SandboxList),
      207: json('With `partial`: some sandboxes have started, and the others have an error.', PartialForkResponse),
    },
    errors: [...startErrors, 'not_found_snapshot', 'not_forkable', 'name_taken'],
  }),
  update: operation('updateSandbox', 'Changes the name, the labels or the time to live of a sandbox.', {
    replies: {
      200: json('The sandbox after the change.', SandboxInfo, { name: 'worker-1', expires_at_unix: 1_767_229_200 }),
    },
    errors: [...sandboxErrors, 'name_taken', 'disk_full'],
  }),
  pause: operation('pauseSandbox', 'Pauses a sandbox: stops its processors and keeps its memory.', {
    replies: { 200: json('The sandbox is paused. It may have been paused before.', SandboxInfo, { state: 'paused' }) },
    errors: [...asked, 'branch_in_flight', 'disk_full'],
  }),
  resume: operation('resumeSandbox', 'Resumes a paused sandbox.', {
    replies: { 200: json('The sandbox is running. It may have been running before.', SandboxInfo) },
    errors: [...asked, 'branch_in_flight', 'disk_full'],
  }),
  stats: operation('sandboxStats', 'Gets the resource usage of a sandbox since it was started.', {
    replies: { 200: json('The resource usage.', SandboxStats) },
    errors: asked,
  }),
  logs: operation('sandboxLogs', 'Reads the console output of the guest.', {
    replies: {
      200: bytes(
        'The end of the output, and with `follow` all later output.',
        'text/plain',
        '[    0.41] forkd-agent: ready\n',
      ),
    },
    errors: sandboxErrors,
  }),
  end: operation('deleteSandbox', 'Ends a sandbox.', {
    replies: { 204: nothing('The sandbox is gone.') },
    errors: sandboxErrors,
  }),
  ping: operation('ping', 'Checks that the guest answers.', {
    replies: { 200: json('The agent in the guest answered.', PingResponse) },
    errors: guestErrors,
  }),
  exec: operation('exec', 'Runs a command and waits for its end.', {
    largeBody: true,
    description:
      'The reply carries the first 8 MiB of each stream, and says how much it leaves out. `startCommand` streams output ' +
      'without that bound.',
    replies: { 200: json('The command has ended, with any exit code.', ExecResponse) },
    errors: [
      ...guestErrors,
      'output_budget',
      'command_timeout',
      'bad_path',
      'not_found_file',
      'not_a_directory',
      'permission_denied',
    ],
    details: { command_timeout: printed },
  }),
  eval: operation('eval', 'Evaluates Python code in the warm interpreter of the sandbox.', {
    largeBody: true,
    replies: { 200: json('The value of the last expression, or the error.', EvalResponse) },
    errors: [...guestErrors, 'output_budget', 'command_timeout', 'unsupported', 'busy'],
    details: { command_timeout: printed },
  }),
  branch: operation('branchSandbox', 'Branches a sandbox: takes a snapshot of it while it runs.', {
    description:
      'A sandbox can have one branch at a time; a request waits for an earlier branch that is ready to be on disk. `diff`, `live` and `measure_diff` are older forms of `mode`; they exclude ' +
      'it and each other. The branch continues if the caller disconnects.',
    idempotent: true,
    replies: {
      201: json('The snapshot can be forked.', SnapshotInfo),
      202: json('The sandbox is running again, and the snapshot is still being written.', SnapshotInfo, {
        status: 'writing',
        bootable: false,
        durable: false,
      }),
    },
    errors: [
      ...asked,
      ...storeErrors,
      'out_of_memory',
      'unsupported',
      'sandbox_paused',
      'tag_exists',
      'snapshot_in_flight',
      'branch_in_flight',
      'branch_cap',
      'branch_failed',
      'guest_unreachable',
      'guest_failed',
    ],
  }),
  memory: operation('sandboxMemory', 'Gets how much memory of a sandbox is private, and how much it shares.', {
    replies: { 200: json('The memory that is resident now.', MemoryInfo) },
    errors: asked,
  }),
  floor: operation(
    'measureFloor',
    'Measures the shortest possible pause: stops the sandbox, saves its device state, and runs it again.',
    {
      replies: { 200: json('The duration of the pause.', FloorInfo) },
      errors: [...asked, 'sandbox_paused', 'branch_in_flight', 'unsupported'],
    },
  ),
};
