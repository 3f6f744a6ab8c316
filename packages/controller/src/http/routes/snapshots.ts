import {
  ApiError,
  CompactSnapshotRequest,
  CreateSnapshotRequest,
  DeleteSnapshotQuery,
  ExportSnapshotRequest,
  ExportSnapshotResponse,
  ImportSnapshotRequest,
  PruneSnapshotsRequest,
  PruneSnapshotsResponse,
  SnapshotEvent,
  SnapshotInfo,
  SnapshotInfoDetail,
  SnapshotList,
  TagParams,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import { Type } from 'typebox';

import type { OnProgress } from '../../snapshots/progress.ts';
import type { AppParts } from '../app-parts.ts';
import { answerOnce } from '../idempotency.ts';
import { pagerErrors, startErrors, storeErrors } from '../openapi/errors.ts';
import { json, lines, nothing, operationsOf } from '../openapi/operation.ts';
import type { Services } from '../services.ts';
import { eventsWhile, sendEvents, wantsEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function snapshotRoutes(instance: FastifyInstance, { services, signals, log, listener }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { snapshots, replies } = services;

  const params = TagParams;
  app.get('/v1/snapshots', { config: described.list }, () => snapshots.list());
  app.get('/v1/snapshots/:tag', { schema: { params }, config: described.get }, (request) =>
    snapshots.info(request.params.tag),
  );
  app.get('/v1/snapshots/:tag/info', { schema: { params }, config: described.detail }, (request) =>
    snapshots.detail(request.params.tag),
  );

  const creation = { schema: { body: CreateSnapshotRequest }, config: described.create };
  app.post('/v1/snapshots', creation, async (request, reply) => {
    const signal = signals.ofCall(reply);
    if (wantsEvents(request)) return sendEvents(reply, log, buildEvents(snapshots, request.body, signal));
    return answerOnce(replies, request, reply, async (requestKey) => {
      const { snapshot } = await snapshots.create(request.body, signal, () => undefined, requestKey);
      return { status: 201, body: snapshot };
    });
  });

  const pruning = { schema: { body: PruneSnapshotsRequest }, config: described.prune };
  app.post('/v1/snapshots/prune', pruning, (request) => snapshots.prune(request.body));
  const compaction = { schema: { params, body: CompactSnapshotRequest }, config: described.compact };
  app.post('/v1/snapshots/:tag/compact', compaction, (request, reply) =>
    snapshots.compact(request.params.tag, request.body.to, signals.ofCall(reply)),
  );

  const exporting = { schema: { params, body: ExportSnapshotRequest }, config: described.export };
  app.post('/v1/snapshots/:tag/export', exporting, ({ params: { tag }, body }, reply) => {
    onlyOnSocket(listener, `POST /v1/snapshots/${tag}/export`);
    return snapshots.export(tag, body, signals.ofCall(reply));
  });
  const importing = { schema: { params, body: ImportSnapshotRequest }, config: described.import };
  app.post('/v1/snapshots/:tag/import', importing, async ({ params: { tag }, body }, reply) => {
    onlyOnSocket(listener, `POST /v1/snapshots/${tag}/import`);
    const info = await snapshots.import(tag, body, signals.ofCall(reply));
    return reply.code(201).send(info);
  });

  const removal = { schema: { params, querystring: DeleteSnapshotQuery }, config: described.remove };
  app.delete('/v1/snapshots/:tag', removal, async (request, reply) => {
    await snapshots.remove(request.params.tag, request.query);
    return reply.code(204).send();
  });
}

/** What names files of the host is for those who have an account on it. */
function onlyOnSocket(listener: AppParts['listener'], route: string): void {
  if (listener !== 'socket') throw new ApiError('socket_only', `${route} is answered on the unix socket only.`);
}

const operation = operationsOf('snapshots');
const found = ['not_found_snapshot', 'bad_tag'] as const;
const dependents = Type.Object({ dependents: Type.Optional(Type.Array(Type.String())) });

const described = {
  list: operation('listSnapshots', 'The snapshots, those that are still being written included.', {
    replies: { 200: json('They.', SnapshotList) },
    errors: storeErrors,
  }),
  get: operation('getSnapshot', 'A snapshot.', {
    replies: { 200: json('The snapshot.', SnapshotInfo) },
    errors: [...found, ...storeErrors],
  }),
  detail: operation('getSnapshotDetail', 'What a snapshot takes, and its place in the chain.', {
    replies: { 200: json('Its sizes and its kin.', SnapshotInfoDetail) },
    errors: [...found, ...storeErrors, 'not_forkable'],
  }),
  create: operation('createSnapshot', 'Boots an image, warms it up, and makes a template of it.', {
    description:
      'Exactly one of `source` and `rootfs`. With the header `Accept: application/x-ndjson` the reply is its progress, whose ' +
      'last line is the result or an error.',
    idempotent: true,
    replies: {
      200: lines('Its progress.', SnapshotEvent),
      201: json('The template is on disk.', SnapshotInfo),
    },
    errors: [
      ...startErrors,
      'tag_exists',
      'snapshot_in_flight',
      'image_not_found',
      'image_invalid',
      'image_fetch_failed',
      'image_build_failed',
      'image_tool_missing',
      'kernel_invalid',
      'needs_root',
      'boot_failed',
      'boot_timeout',
      'warm_failed',
      'branch_failed',
    ],
  }),
  prune: operation('pruneSnapshots', 'Removes branches that are old or many.', {
    description: 'Templates stay, and so does what others need. One of `older_than_secs` and `keep` is needed.',
    replies: { 200: json('What is gone, or would be.', PruneSnapshotsResponse) },
    errors: storeErrors,
  }),
  compact: operation('compactSnapshot', 'Writes a snapshot anew that needs none of those below it.', {
    replies: { 200: json('The new one.', SnapshotInfo) },
    errors: [
      ...found,
      ...pagerErrors,
      ...storeErrors,
      'tag_exists',
      'snapshot_in_flight',
      'not_forkable',
      'out_of_memory',
    ],
  }),
  export: operation(
    'exportSnapshot',
    "Writes a snapshot as Firecracker's own files: device state, memory, root image.",
    {
      description: 'On the unix socket only. The directory is there whole, or not at all.',
      replies: { 200: json('What was written.', ExportSnapshotResponse) },
      errors: [
        ...found,
        ...pagerErrors,
        ...storeErrors,
        'socket_only',
        'unsupported',
        'bad_path',
        'target_exists',
        'not_forkable',
        'out_of_memory',
      ],
    },
  ),
  import: operation('importSnapshot', "Makes a snapshot of Firecracker's own files.", {
    description:
      'On the unix socket only. A directory that an export has written says all that is needed; of another, `rootfs` is needed too.',
    replies: { 201: json('The snapshot is on disk.', SnapshotInfo) },
    errors: [
      ...pagerErrors,
      ...storeErrors,
      'bad_tag',
      'socket_only',
      'unsupported',
      'bad_path',
      'import_invalid',
      'image_not_found',
      'image_invalid',
      'tag_exists',
      'snapshot_in_flight',
      'out_of_memory',
    ],
  }),
  remove: operation('deleteSnapshot', 'Removes a snapshot.', {
    replies: { 204: nothing('It is gone.') },
    errors: [...found, ...storeErrors, 'has_dependents', 'snapshot_in_flight'],
    details: { has_dependents: dependents },
  }),
};

function buildEvents(
  snapshots: Services['snapshots'],
  request: CreateSnapshotRequest,
  signal: AbortSignal,
): AsyncGenerator<SnapshotEvent> {
  const beganMs = performance.now();
  return eventsWhile<SnapshotEvent>(async (report) => {
    const onProgress: OnProgress = (stage, message) =>
      report({ type: 'progress', stage, message, elapsed_ms: performance.now() - beganMs });
    const result = await snapshots.create(request, signal, onProgress, null);
    return { type: 'result', ...result };
  });
}
