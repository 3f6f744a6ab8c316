import type { FastifyInstance } from 'fastify';
import type { AppParts } from '../app-parts.ts';
import { bytes, operationsOf } from '../openapi/operation.ts';

const MEDIA_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

export function metricsRoutes(app: FastifyInstance, { metrics }: AppParts): void {
  app.get('/metrics', { config: described }, async (_request, reply) =>
    reply.type(MEDIA_TYPE).send(await metrics.scrape()),
  );
}

const described = operationsOf('host')('metrics', 'Gets metrics for Prometheus.', {
  replies: { 200: bytes('The metrics, in the text format of Prometheus.', 'text/plain', 'forkd_sandboxes_active 3\n') },
  errors: [],
});
