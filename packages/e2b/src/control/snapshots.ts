import { randomBytes } from 'node:crypto';
import { ApiError, type BranchRequest, type SnapshotInfo } from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import { Type } from 'typebox';
import { E2bError, notSupported } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Parts } from '../parts.ts';
import { snapshotOf, tagOf, Timeout } from './create.ts';
import { accessOf } from './describe.ts';
import { sendPage } from './page.ts';
import { queryText } from './query.ts';
import { bodyOf } from './read.ts';

const readFork = bodyOf(
  Type.Object({
    timeout: Type.Optional(Timeout),
    count: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.forkCountMax })),
  }),
);
const readSnapshot = bodyOf(Type.Object({ name: Type.Optional(Type.String()), memory: Type.Optional(Type.Boolean()) }));

interface Params {
  Params: { id: string };
}

/** Branches of sandboxes: forks of one that runs, and snapshots of it. */
export function snapshotRoutes(app: FastifyInstance, parts: Parts): void {
  const { operations, signals } = parts;

  app.post<Params>('/sandboxes/:id/fork', async (request, reply) => {
    const { timeout = limits.timeoutSecsDefault, count = 1 } = readFork(request.body);
    const source = operations.getSandbox(request.params.id);
    const { tag } = await branchOf(parts, source.id, `e2b-fork-${randomBytes(8).toString('hex')}`, 'ready');
    try {
      const made = await operations.fork(
        {
          snapshot_tag: tag,
          n: count,
          labels: source.labels ?? {},
          ttl_secs: timeout,
          on_expire: source.on_expire ?? 'kill',
          partial: true,
        },
        signals.ofCall(reply),
        null,
      );
      const results = Array.isArray(made) ? made.map((sandbox) => ({ sandbox })) : made.results;
      return await reply.code(201).send(
        results.map((result) => {
          if ('sandbox' in result) return { sandbox: accessOf(parts, result.sandbox) };
          return { error: { code: 503, message: result.error } };
        }),
      );
    } finally {
      // The children have what they need of it.
      await operations.removeSnapshot(tag, {});
    }
  });

  app.post<Params>('/sandboxes/:id/snapshots', async (request, reply) => {
    const { name, memory } = readSnapshot(request.body);
    if (memory === false) throw notSupported('A snapshot of files only');
    const tag = name === undefined ? `e2b-${randomBytes(8).toString('hex')}` : tagOf(name);
    const { id } = operations.getSandbox(request.params.id);
    await branchOf(parts, id, tag, 'durable');
    return reply.code(201).send(described(tag));
  });
  app.get('/snapshots', async (request, reply) => {
    const [id, name] = [queryText(request, 'sandboxID'), queryText(request, 'name')];
    const all = await operations.listSnapshots();
    const found = all.filter(
      ({ branched_from: source, tag }) =>
        source !== undefined && (id === undefined || source === id) && (name === undefined || tag === tagOf(name)),
    );
    const page = { limit: queryText(request, 'limit'), nextToken: queryText(request, 'nextToken') };
    return sendPage(reply, found, page, ({ tag }) => described(tag));
  });
  app.delete<Params>('/templates/:id', async (request, reply) => {
    const { tag } = await snapshotOf(operations, tagOf(request.params.id));
    await operations.removeSnapshot(tag, {});
    return reply.code(204).send();
  });
  app.get<{ Params: { alias: string } }>('/templates/aliases/:alias', async (request, reply) => {
    const { tag } = await snapshotOf(operations, tagOf(request.params.alias));
    return reply.send({ templateID: tag, public: false });
  });
}

function described(tag: string): object {
  return { snapshotID: tag, names: [tag] };
}

/** Takes a live branch, or a branch with a longer pause on a host that cannot take one live. */
async function branchOf(
  { operations }: Parts,
  id: string,
  tag: string,
  until: NonNullable<BranchRequest['until']>,
): Promise<SnapshotInfo> {
  try {
    return await operations.branch(id, { tag, mode: 'live', until }, null);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code === 'unsupported') return operations.branch(id, { tag, mode: 'diff', until }, null);
    if (error.code === 'sandbox_paused') throw new E2bError(409, error.message);
    throw error;
  }
}
