import { ApiError } from '@forkd/api';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

import { pathOf } from './request-id.ts';

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
    const failure = new ApiError('not_found', `There is no route ${request.method} ${path}.`);
    const body = { ...failure.toBody(), request_id: request.id };
    if (methods.length === 0) return reply.code(404).send(body);
    const allowed = [...new Set(methods)].toSorted().join(', ');
    return reply
      .code(405)
      .header('allow', allowed)
      .send({ ...body, hint: `This path takes ${allowed}.` });
  });
}
