import { ApiError, ShutdownQuery } from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import { version } from '../../version.ts';
import type { AppParts } from '../app-parts.ts';
import type { SchemaTypes } from '../validation.ts';

/** The controller itself and its host. */
export function hostRoutes(instance: FastifyInstance, { services, listener }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  app.get('/healthz', () => ({ ok: true }));
  app.get('/version', () => ({ version, api: 'v1' }));
  app.get('/v1/host', () => services.host.info());
  app.post('/v1/shutdown', { schema: { querystring: ShutdownQuery } }, (request) => {
    if (listener !== 'socket') {
      throw new ApiError('socket_only', 'POST /v1/shutdown is answered on the unix socket only.');
    }
    return services.host.shutdown(request.query.sandboxes === 'kill');
  });
}
