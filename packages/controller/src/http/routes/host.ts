import { ApiError, Health, HostInfo, ShutdownQuery, ShutdownResponse, VersionInfo } from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import { version } from '../../version.ts';
import type { AppParts } from '../app-parts.ts';
import { pagerErrors } from '../openapi/errors.ts';
import { json, operationsOf } from '../openapi/operation.ts';
import type { SchemaTypes } from '../validation.ts';

/** The controller itself and its host. */
export function hostRoutes(instance: FastifyInstance, { services, listener }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  app.get('/healthz', { config: described.health }, () => ({ ok: true }));
  app.get('/version', { config: described.version }, () => ({ version, api: 'v1' }));
  app.get('/v1/host', { config: described.host }, () => services.host.info());
  app.post('/v1/shutdown', { schema: { querystring: ShutdownQuery }, config: described.shutdown }, (request) => {
    if (listener !== 'socket') {
      throw new ApiError('socket_only', 'POST /v1/shutdown is answered on the unix socket only.');
    }
    return services.host.shutdown(request.query.sandboxes === 'kill');
  });
}

const operation = operationsOf('host');

const described = {
  health: operation('health', 'Whether the controller is up.', {
    open: true,
    replies: { 200: json('It is.', Health) },
    errors: [],
  }),
  version: operation('version', 'The version of the controller and of its API.', {
    replies: { 200: json('Both.', VersionInfo) },
    errors: [],
  }),
  host: operation('host', 'What the controller runs on, and with.', {
    replies: { 200: json('The host and its engine.', HostInfo) },
    errors: [...pagerErrors],
  }),
  shutdown: operation('shutdown', 'Ends the controller.', {
    description:
      'On the unix socket only. Sandboxes run on and are taken up by the next controller, unless told otherwise.',
    replies: { 200: json('It ends once this is sent.', ShutdownResponse) },
    errors: ['socket_only'],
  }),
};
