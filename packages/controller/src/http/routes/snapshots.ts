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
import { buildTemplate } from '../../operations/build-template.ts';
import { compact } from '../../operations/compact.ts';
import { exportSnapshot } from '../../operations/export.ts';
import { importSnapshot } from '../../operations/import.ts';
import { getSnapshotDetail } from '../../operations/inspect.ts';
import { getSnapshot, listSnapshots } from '../../operations/list.ts';
import type { OnProgress } from '../../operations/progress.ts';
import { prune } from '../../operations/prune.ts';
import { removeSnapshot } from '../../operations/remove.ts';
import type { AppParts } from '../app-parts.ts';
import { answerOnce } from '../idempotency.ts';
import { pagerErrors, startErrors, storeErrors } from '../openapi/errors.ts';
import { json, lines, nothing, operationsOf } from '../openapi/operation.ts';
import { eventsWhile, sendEvents, sendList, wantsEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

export function snapshotRoutes(instance: FastifyInstance, { run, replies, signals, log, listener }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const params = TagParams;
  app.get('/v1/snapshots', { config: described.list }, async (_request, reply) =>
    sendList(reply, await run(listSnapshots)),
  );
  app.get('/v1/snapshots/:tag', { schema: { params }, config: described.get }, (request) =>
    run(getSnapshot, request.params.tag),
  );
  app.get('/v1/snapshots/:tag/info', { schema: { params }, config: described.detail }, (request) =>
    run(getSnapshotDetail, request.params.tag),
  );

  const creation = { schema: { body: CreateSnapshotRequest }, config: described.create };
  app.post('/v1/snapshots', creation, async (request, reply) => {
    if (wantsEvents(request)) {
      if (request.headers['idempotency-key'] !== undefined) throw keyWithProgress();
      return sendEvents(reply, log, buildEvents(run, request.body, signals.ofCall(reply)));
    }
    return answerOnce({ replies, signals }, request, reply, async (requestKey, signal) => {
      const { snapshot } = await run(buildTemplate, request.body, signal, () => undefined, requestKey);
      return { status: 201, body: snapshot };
    });
  });

  const pruning = { schema: { body: PruneSnapshotsRequest }, config: described.prune };
  app.post('/v1/snapshots/prune', pruning, (request) => run(prune, request.body));
  const compaction = { schema: { params, body: CompactSnapshotRequest }, config: described.compact };
  app.post('/v1/snapshots/:tag/compact', compaction, (request, reply) =>
    run(compact, request.params.tag, request.body.to, signals.ofCall(reply)),
  );

  const exporting = { schema: { params, body: ExportSnapshotRequest }, config: described.export };
  app.post('/v1/snapshots/:tag/export', exporting, ({ params: { tag }, body }, reply) => {
    onlyOnSocket(listener, `POST /v1/snapshots/${tag}/export`);
    return run(exportSnapshot, tag, body, signals.ofCall(reply));
  });
  const importing = { schema: { params, body: ImportSnapshotRequest }, config: described.import };
  app.post('/v1/snapshots/:tag/import', importing, async ({ params: { tag }, body }, reply) => {
    onlyOnSocket(listener, `POST /v1/snapshots/${tag}/import`);
    const info = await run(importSnapshot, tag, body, signals.ofCall(reply));
    return reply.code(201).send(info);
  });

  const removal = { schema: { params, querystring: DeleteSnapshotQuery }, config: described.remove };
  app.delete('/v1/snapshots/:tag', removal, async (request, reply) => {
    await run(removeSnapshot, request.params.tag, request.query);
    return reply.code(204).send();
  });
}

/** A streamed reply is not kept, so a key would promise a repetition that cannot be kept. */
function keyWithProgress(): ApiError {
  return new ApiError('bad_request', 'POST /v1/snapshots: a streamed reply does not support Idempotency-Key.');
}

/** Routes that take paths of the host are for callers with an account on it. */
function onlyOnSocket(listener: AppParts['listener'], route: string): void {
  if (listener !== 'socket') throw new ApiError('socket_only', `${route} is answered on the unix socket only.`);
}

const operation = operationsOf('snapshots');
const found = ['not_found_snapshot', 'bad_tag'] as const;
const dependents = Type.Object({ dependents: Type.Optional(Type.Array(Type.String())) });

const described = {
  list: operation('listSnapshots', 'Lists the snapshots, including those that are still being written.', {
    replies: { 200: json('The snapshots.', SnapshotList) },
    errors: storeErrors,
  }),
  get: operation('getSnapshot', 'Gets a snapshot.', {
    replies: { 200: json('The snapshot.', SnapshotInfo) },
    errors: [...found, ...storeErrors],
  }),
  detail: operation('getSnapshotDetail', 'Gets the sizes, ancestors and dependents of a snapshot.', {
    replies: { 200: json('The sizes, ancestors and dependents.', SnapshotInfoDetail) },
    errors: [...found, ...storeErrors, 'not_forkable'],
  }),
  create: operation('createSnapshot', 'Builds a template: boots an image, warms it up and takes a snapshot.', {
    largeBody: true,
    description:
      'Give exactly one of `source` and `rootfs`. With the header `Accept: application/x-ndjson` the reply streams progress, and ' +
      'its last line is the result or an error.',
    idempotent: true,
    replies: {
      200: lines('The progress, and the result.', SnapshotEvent),
      201: json('The template is on disk.', SnapshotInfo),
    },
    errors: [
      ...startErrors,
      'tag_exists',
      'snapshot_in_flight',
      'has_dependents',
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
    details: { has_dependents: dependents },
  }),
  prune: operation('pruneSnapshots', 'Removes branches that are too old or too many.', {
    description: 'Templates are kept, and so are snapshots that others need. Give `older_than_secs`, `keep` or both.',
    replies: { 200: json('The removed branches, or those that would be removed.', PruneSnapshotsResponse) },
    errors: storeErrors,
  }),
  compact: operation('compactSnapshot', 'Compacts a snapshot: writes a copy that needs none of its ancestors.', {
    replies: { 200: json('The compacted snapshot.', SnapshotInfo, { tag: 'after-import-flat' }) },
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
    "Exports a snapshot in Firecracker's file format: device state, memory and root image.",
    {
      description: 'On the unix socket only. The directory appears complete, or not at all.',
      replies: { 200: json('The sizes of the exported files.', ExportSnapshotResponse) },
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
  import: operation('importSnapshot', "Imports files in Firecracker's format as a snapshot.", {
    description:
      'On the unix socket only. A directory that an export has written needs no other field. Any other directory needs `rootfs`.',
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
    description:
      'A branch keeps the snapshot that it names as its `parent_tag`; any other branch has what it needs without. A snapshot that ' +
      'is ready and not yet on disk is removed once it is.',
    replies: { 204: nothing('The snapshot is gone.') },
    errors: [...found, ...storeErrors, 'has_dependents', 'snapshot_in_flight'],
    details: { has_dependents: dependents },
  }),
};

function buildEvents(
  run: AppParts['run'],
  request: CreateSnapshotRequest,
  signal: AbortSignal,
): AsyncGenerator<SnapshotEvent> {
  const beganMs = performance.now();
  return eventsWhile<SnapshotEvent>(async (report) => {
    const onProgress: OnProgress = (stage, message) =>
      report({ type: 'progress', stage, message, elapsed_ms: performance.now() - beganMs });
    const result = await run(buildTemplate, request, signal, onProgress, null);
    return { type: 'result', ...result };
  });
}
