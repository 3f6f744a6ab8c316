import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';

export function metricsRoutes(app: FastifyInstance, { metrics }: AppParts): void {
  app.get('/metrics', async (_request, reply) =>
    reply.type('text/plain; version=0.0.4; charset=utf-8').send(await metrics.scrape()),
  );
}
