import type { SandboxInfo, SnapshotInfo } from '@forkd/api';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import { E2bError, notSupported } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Parts } from '../parts.ts';
import { Timeout } from './create.ts';
import { accessOf, listedSandbox, metadataOf } from './describe.ts';
import { sendPage } from './page.ts';
import { metadataFilter, queryText } from './query.ts';
import { bodyOf } from './read.ts';

const readTimeout = bodyOf(Type.Object({ timeout: Timeout }));
const readConnect = bodyOf(Type.Object({ timeout: Type.Optional(Timeout), memory: Type.Optional(Type.Boolean()) }));
const readPause = bodyOf(Type.Object({ memory: Type.Optional(Type.Boolean()) }));

interface Params {
  Params: { id: string };
}

/** The life of sandboxes: list, describe, connect, pause, end. */
export function sandboxRoutes(app: FastifyInstance, parts: Parts): void {
  const { operations, access, memories } = parts;

  const list = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    const infos = matching(operations.listSandboxes({}), request);
    const snapshots = await snapshotsByTag(parts);
    const page = { limit: queryText(request, 'limit'), nextToken: queryText(request, 'nextToken') };
    return sendPage(reply, infos, page, (info) => listedSandbox(info, snapshots.get(info.snapshot_tag)));
  };
  app.get('/v2/sandboxes', list);
  app.get('/sandboxes', list);

  app.get<Params>('/sandboxes/:id', async ({ params: { id } }) => {
    const info = operations.getSandbox(id);
    const snapshots = await snapshotsByTag(parts);
    return {
      ...listedSandbox(info, snapshots.get(info.snapshot_tag)),
      envdAccessToken: access.of(id),
      lifecycle: { autoResume: false, onTimeout: info.on_expire ?? 'kill' },
    };
  });
  app.delete<Params>('/sandboxes/:id', async ({ params: { id } }, reply) => {
    await operations.endSandbox(id);
    memories.forget(id);
    return reply.code(204).send();
  });
  app.post<Params>('/sandboxes/:id/timeout', async ({ params: { id }, body }, reply) => {
    await operations.updateSandbox(id, { ttl_secs: readTimeout(body).timeout });
    return reply.code(204).send();
  });

  const connect = async (request: FastifyRequest<Params>, reply: FastifyReply): Promise<FastifyReply> => {
    const { timeout = limits.timeoutSecsDefault, memory } = readConnect(request.body);
    if (memory === false) throw notSupported('A start without the memory of the sandbox');
    const info = operations.getSandbox(request.params.id);
    const isPaused = info.state === 'paused';
    if (isPaused) await operations.resume(info.id);
    // The time of a running sandbox is only ever extended by this.
    const endUnix = Math.ceil(Date.now() / 1000) + timeout;
    const isLonger = info.expires_at_unix !== undefined && endUnix > info.expires_at_unix;
    if (isPaused || isLonger) await operations.updateSandbox(info.id, { ttl_secs: timeout });
    return reply.code(isPaused ? 201 : 200).send(accessOf(parts, info));
  };
  app.post('/v2/sandboxes/:id/connect', connect);
  app.post('/sandboxes/:id/connect', connect);
  app.post('/sandboxes/:id/resume', connect);

  app.post<Params>('/sandboxes/:id/pause', async ({ params: { id }, body }, reply) => {
    if (readPause(body).memory === false) throw notSupported('A pause that keeps files only');
    const { state } = operations.getSandbox(id);
    if (state === 'paused') throw new E2bError(409, `Sandbox ${id} is paused already.`);
    await operations.pause(id);
    // A paused sandbox is kept until it is resumed or killed.
    await operations.updateSandbox(id, { ttl_secs: null });
    return reply.code(204).send();
  });
  app.get<Params>('/sandboxes/:id/metrics', async ({ params: { id } }) => {
    const snapshots = await snapshotsByTag(parts);
    return [await metricsOf(parts, snapshots.get(operations.getSandbox(id).snapshot_tag), id)];
  });
}

/** The sandboxes that a query asks for, the newest first unless it says otherwise. */
function matching(infos: readonly SandboxInfo[], request: FastifyRequest): SandboxInfo[] {
  const states = queryText(request, 'state')?.split(',') ?? ['running', 'paused'];
  const template = queryText(request, 'template');
  const hasMetadata = metadataFilter(queryText(request, 'metadata'));
  const after = queryText(request, 'startedAfter');
  const afterUnix = after === undefined ? 0 : Date.parse(after) / 1000;
  if (Number.isNaN(afterUnix)) throw new E2bError(400, `The time '${after}' of startedAfter cannot be read.`);
  const sign = queryText(request, 'order') === 'asc' ? 1 : -1;
  return infos
    .filter(
      (info) =>
        states.includes(info.state ?? 'running') &&
        (template === undefined || info.snapshot_tag === template) &&
        info.created_at_unix >= afterUnix &&
        hasMetadata(metadataOf(info)),
    )
    .toSorted((a, b) => sign * (a.created_at_unix - b.created_at_unix || (a.id < b.id ? -1 : 1)));
}

async function snapshotsByTag({ operations }: Parts): Promise<Map<string, SnapshotInfo>> {
  const snapshots = await operations.listSnapshots();
  return new Map(snapshots.map((snapshot) => [snapshot.tag, snapshot]));
}

/** The present use of a sandbox. The use of its processor is the mean since its start. */
async function metricsOf({ operations }: Parts, snapshot: SnapshotInfo | undefined, id: string): Promise<object> {
  const stats = await operations.getStats(id);
  return {
    timestamp: new Date().toISOString(),
    timestampUnix: Math.floor(Date.now() / 1000),
    cpuCount: 1,
    cpuUsedPct: stats.uptime_secs === 0 ? 0 : Math.round((1000 * stats.cpu_secs) / stats.uptime_secs) / 10,
    memUsed: stats.private_bytes + stats.shared_bytes,
    memTotal: (snapshot?.mem_mib ?? 0) * 1024 * 1024,
    memCache: 0,
    diskUsed: (stats.disk_own_bytes ?? 0) + (stats.disk_shared_bytes ?? 0),
    diskTotal: (snapshot?.disk_gib ?? 0) * 1024 ** 3,
  };
}
