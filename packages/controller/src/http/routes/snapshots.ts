import type { SnapshotEvent } from '@forkd/api';
import {
  CompactSnapshotRequest,
  CreateSnapshotRequest,
  DeleteSnapshotQuery,
  PruneSnapshotsRequest,
  TagParams,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { answerOnce } from '../idempotency.ts';
import type { Services } from '../services.ts';
import { eventsWhile, sendEvents, wantsEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function snapshotRoutes(instance: FastifyInstance, { services, signals, log }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { snapshots, replies } = services;

  app.get('/v1/snapshots', () => snapshots.list());
  app.get('/v1/snapshots/:tag', { schema: { params: TagParams } }, (request) => snapshots.info(request.params.tag));
  app.get('/v1/snapshots/:tag/info', { schema: { params: TagParams } }, (request) =>
    snapshots.detail(request.params.tag),
  );

  app.post('/v1/snapshots', { schema: { body: CreateSnapshotRequest } }, async (request, reply) => {
    const signal = signals.ofCall(reply);
    if (wantsEvents(request)) return sendEvents(reply, log, buildEvents(snapshots, request.body, signal));
    return answerOnce(replies, request, reply, async () => {
      const { snapshot } = await snapshots.create(request.body, signal, () => undefined);
      return { status: 201, body: snapshot };
    });
  });

  app.post('/v1/snapshots/prune', { schema: { body: PruneSnapshotsRequest } }, (request) =>
    snapshots.prune(request.body),
  );
  app.post(
    '/v1/snapshots/:tag/compact',
    { schema: { params: TagParams, body: CompactSnapshotRequest } },
    (request, reply) => snapshots.compact(request.params.tag, request.body.to, signals.ofCall(reply)),
  );

  const removal = { schema: { params: TagParams, querystring: DeleteSnapshotQuery } };
  app.delete('/v1/snapshots/:tag', removal, async (request, reply) => {
    await snapshots.remove(request.params.tag, request.query);
    return reply.code(204).send();
  });
}

function buildEvents(
  snapshots: Services['snapshots'],
  request: CreateSnapshotRequest,
  signal: AbortSignal,
): AsyncGenerator<SnapshotEvent> {
  const beganMs = performance.now();
  return eventsWhile<SnapshotEvent>(async (report) => {
    const result = await snapshots.create(request, signal, (stage, message) =>
      report({ type: 'progress', stage, message, elapsed_ms: performance.now() - beganMs }),
    );
    return { type: 'result', ...result };
  });
}
