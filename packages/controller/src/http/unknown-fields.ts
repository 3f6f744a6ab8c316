import { ApiError } from '@forkd/api';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { limits } from '../limits.ts';
import { visibleStart } from './excerpt.ts';
import { whereOf } from './request-id.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** A sentence for each field of the request that its route does not know. */
    fieldWarnings: readonly string[] | null;
  }
}

/**
 * Warns of fields that a route does not know, in `warnings` of the reply: clients of other versions send some, and others
 * are typing errors. With `Prefer: handling=strict` (RFC 7240) the request is refused.
 */
export function reportUnknownFields(app: FastifyInstance): void {
  app.decorateRequest('fieldWarnings', null);
  app.addHook('preHandler', async (request) => {
    const { body, querystring } = request.routeOptions.schema ?? {};
    const names = [...unknownNames(body, request.body), ...unknownNames(querystring, request.query)];
    if (names.length === 0) return;
    if (wantsStrict(request)) {
      throw new ApiError('bad_request', `${whereOf(request)}: ${sentenceOf(names)}`);
    }
    request.fieldWarnings = names.map((name) => sentenceOf([name]));
  });
  app.addHook('preSerialization', async (request, _reply, payload) =>
    withWarnings(payload, request.fieldWarnings ?? []),
  );
}

function unknownNames(schema: unknown, given: unknown): string[] {
  const { properties } = (schema ?? {}) as { properties?: object };
  if (properties === undefined || typeof given !== 'object' || given === null) return [];
  const names = Object.keys(given).filter((name) => !Object.hasOwn(properties, name));
  return names.slice(0, limits.fieldWarningsMax).map(visibleStart);
}

function sentenceOf(names: readonly string[]): string {
  const list = names.map((name) => `'${name}'`).join(', ');
  return names.length === 1 ? `Field ${list} is unknown and has no effect.` : `Fields ${list} are unknown.`;
}

function wantsStrict({ headers }: FastifyRequest): boolean {
  return [headers.prefer ?? []].flat().some((value) => /(?:^|[,;\s])handling=strict(?:$|[,;\s])/i.test(value));
}

/** Each item of a list gets the warnings, as each sandbox of a fork has its own. */
function withWarnings(payload: unknown, warnings: readonly string[]): unknown {
  if (warnings.length === 0 || typeof payload !== 'object' || payload === null) return payload;
  if (Array.isArray(payload)) return payload.map((item: unknown) => withWarnings(item, warnings));
  const { warnings: own = [] } = payload as { warnings?: readonly string[] };
  return { ...payload, warnings: [...own, ...warnings] };
}
