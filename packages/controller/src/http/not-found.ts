import { ApiError } from '@forkd/api';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { pathOf, whereOf } from './request-id.ts';

/** Answers what no route does: 405 where the path has another method, else 404. */
export function answerUnknownRoutes(app: FastifyInstance): void {
  const routes: { methods: string[]; pattern: RegExp }[] = [];
  app.addHook('onRoute', ({ method, url }) => {
    const pattern = new RegExp(`^${url.replaceAll(/:[a-z]+/g, '[^/]+')}$`);
    routes.push({ methods: [method].flat(), pattern });
  });
  app.setNotFoundHandler((request: FastifyRequest, reply: FastifyReply) => {
    const path = pathOf(request.url);
    const methods = routes.filter(({ pattern }) => pattern.test(path)).flatMap((route) => route.methods);
    const sentence = `There is no route ${whereOf(request)}.`;
    if (methods.length === 0) throw new ApiError('not_found', sentence);
    const allowed = [...new Set(methods)].toSorted().join(', ');
    reply.header('allow', allowed);
    throw new ApiError('method_not_allowed', sentence, { hint: `This path takes ${allowed}.` });
  });
}
