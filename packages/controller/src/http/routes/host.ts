import { ApiError, Health, HostInfo, ShutdownQuery, ShutdownResponse, VersionInfo } from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import { describeHost } from '../../operations/describe-host.ts';
import { shutDown } from '../../operations/shut-down.ts';
import { version } from '../../version.ts';
import type { AppParts } from '../app-parts.ts';
import { pagerErrors } from '../openapi/errors.ts';
import { json, operationsOf } from '../openapi/operation.ts';
import type { SchemaTypes } from '../validation.ts';

/** Routes of the controller itself and of its host. */
export function hostRoutes(instance: FastifyInstance, { run, signals, listener }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  app.get('/healthz', { config: described.health }, () => ({ ok: true }));
  app.get('/version', { config: described.version }, () => ({ version, api: 'v1' }));
  app.get('/v1/host', { config: described.host }, (_request, reply) => run(describeHost, signals.ofCall(reply)));
  app.post('/v1/shutdown', { schema: { querystring: ShutdownQuery }, config: described.shutdown }, (request) => {
    if (listener !== 'socket') {
      throw new ApiError('socket_only', 'POST /v1/shutdown is answered on the unix socket only.');
    }
    return run(shutDown, request.query.sandboxes === 'kill');
  });
}

const operation = operationsOf('host');

const described = {
  health: operation('health', 'Checks that the controller is up.', {
    open: true,
    replies: { 200: json('The controller is up.', Health) },
    errors: [],
  }),
  version: operation('version', 'Gets the versions of the controller and of its API.', {
    replies: { 200: json('The two versions.', VersionInfo) },
    errors: [],
  }),
  host: operation('host', 'Describes the host and the engine of the controller.', {
    replies: { 200: json('The host, its engine and the memory of snapshots.', HostInfo) },
    errors: [...pagerErrors],
  }),
  shutdown: operation('shutdown', 'Shuts the controller down.', {
    description:
      'On the unix socket only. Sandboxes keep running and the next controller adopts them, unless `sandboxes=kill` is given.',
    replies: { 200: json('The controller ends after this reply.', ShutdownResponse) },
    errors: ['socket_only'],
  }),
};
