import { ApiError, type CreateSandboxesRequest, type SandboxInfo, type SnapshotInfo } from '@forkd/api';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Type, type Static } from 'typebox';
import { E2bError, notSupported } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Operations } from '../operations.ts';
import type { Parts } from '../parts.ts';
import { accessOf, isOwnLabel } from './describe.ts';
import { bodyOf } from './read.ts';

const Text = Type.String();
const TEMPLATE_DEFAULT = 'base';

export const Timeout = Type.Integer({ minimum: 1, maximum: 31 * 86_400 });
const NewSandbox = Type.Object({
  templateID: Type.Optional(Text),
  timeout: Type.Optional(Timeout),
  metadata: Type.Optional(Type.Record(Text, Text)),
  envVars: Type.Optional(Type.Record(Text, Text)),
  autoPause: Type.Optional(Type.Boolean()),
  autoResume: Type.Optional(Type.Object({ enabled: Type.Optional(Type.Boolean()) })),
  allow_internet_access: Type.Optional(Type.Boolean()),
  network: Type.Optional(Type.Unknown()),
  mcp: Type.Optional(Type.Unknown()),
  iam: Type.Optional(Type.Unknown()),
  volumeMounts: Type.Optional(Type.Array(Type.Unknown())),
});
type NewSandbox = Static<typeof NewSandbox>;
const read = bodyOf(NewSandbox);

export function createRoutes(app: FastifyInstance, parts: Parts): void {
  const create = (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    const asked = read(request.body);
    return parts.answerOnce(request, reply, async (requestKey, signal) => {
      const info = await createSandbox(parts, asked, requestKey, signal);
      return { status: 201, body: accessOf(parts, info), undo: () => parts.operations.undoFork([info]) };
    });
  };
  app.post('/v2/sandboxes', create);
  app.post('/sandboxes', create);
}

async function createSandbox(
  { operations, memories }: Parts,
  asked: NewSandbox,
  requestKey: string | null,
  signal: AbortSignal,
): Promise<SandboxInfo> {
  assertSupported(asked);
  const tag = tagOf(asked.templateID ?? TEMPLATE_DEFAULT);
  const snapshot = await snapshotOf(operations, tag);
  const made = await operations.fork(requestOf(asked, snapshot), signal, requestKey);
  const [info] = Array.isArray(made) ? made : [];
  if (info === undefined) throw new Error(`a fork of '${tag}' made nothing`);
  const { envVars = {} } = asked;
  if (Object.keys(envVars).length > 0) {
    try {
      await memories.of(info.id).setVariables(envVars, signal);
    } catch (error) {
      await operations.undoFork([info]);
      throw error;
    }
  }
  return info;
}

function requestOf(
  { timeout, metadata = {}, autoPause, allow_internet_access: allowInternet }: NewSandbox,
  snapshot: SnapshotInfo,
): CreateSandboxesRequest {
  const hasNetwork = snapshot.network !== undefined;
  return {
    snapshot_tag: snapshot.tag,
    n: 1,
    labels: labelsOf(metadata),
    ttl_secs: timeout ?? limits.timeoutSecsDefault,
    on_expire: autoPause === true ? 'pause' : 'kill',
    ...(hasNetwork && allowInternet === false && { network: {} }),
    ...(hasNetwork && allowInternet === true && { network: { access: 'all' as const } }),
  };
}

/** Refuses what would change what the sandbox may do, if it were passed over. */
function assertSupported({ network, mcp, iam, volumeMounts = [], autoResume }: NewSandbox): void {
  const rules = Object.keys(network ?? {}).filter((name) => name !== 'allowPublicTraffic');
  if (rules.length > 0) throw notSupported(`A network with ${rules.join(', ')}`);
  if (mcp != null) throw notSupported('An MCP gateway');
  if (iam != null) throw notSupported('A role in a cloud');
  if (volumeMounts.length > 0) throw notSupported('A volume');
  if (autoResume?.enabled === true) throw notSupported('Resuming a sandbox by a request to it');
}

/** The tag of a template by E2B's names: of `namespace/name:tag` forkd has the name. */
export function tagOf(templateId: string): string {
  return templateId.replace(/^.*\//, '').replace(/:(default|latest)$/, '');
}

/** Finds the snapshot of a template. */
export async function snapshotOf(operations: Operations, tag: string): Promise<SnapshotInfo> {
  try {
    return await operations.getSnapshot(tag);
  } catch (error) {
    if (!(error instanceof ApiError) || (error.code !== 'not_found_snapshot' && error.code !== 'bad_tag')) throw error;
    throw new E2bError(404, `There is no template '${tag}'.`);
  }
}

function labelsOf(metadata: Record<string, string>): Record<string, string> {
  const own = Object.keys(metadata).find(isOwnLabel);
  if (own !== undefined) throw new E2bError(400, `Metadata may not have the key '${own}', which is kept for forkd.`);
  return metadata;
}
