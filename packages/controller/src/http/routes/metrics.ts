import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { bytes, operationsOf } from '../openapi/operation.ts';

const mediaType = 'text/plain; version=0.0.4; charset=utf-8';

export function metricsRoutes(app: FastifyInstance, { metrics }: AppParts): void {
  app.get('/metrics', { config: described }, async (_request, reply) =>
    reply.type(mediaType).send(await metrics.scrape()),
  );
}

const described = operationsOf('host')('metrics', 'Metrics for Prometheus.', {
  replies: { 200: bytes('In the text format of Prometheus.', 'text/plain') },
  errors: [],
});
