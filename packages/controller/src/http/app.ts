import { limits } from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import Fastify from 'fastify';

import type { AppParts } from './app-parts.ts';
import { answerClientError, errorHandler } from './errors.ts';
import { answerUnknownRoutes } from './not-found.ts';
import { commandRoutes } from './routes/commands.ts';
import { eventRoutes } from './routes/events.ts';
import { fileRoutes } from './routes/files.ts';
import { hostRoutes } from './routes/host.ts';
import { sandboxRoutes } from './routes/sandboxes.ts';
import { snapshotRoutes } from './routes/snapshots.ts';
import { workspaceRoutes } from './routes/workspaces.ts';
import { validatorCompiler } from './validation.ts';

/** The HTTP side of the controller, for one listener. */
export function buildApp(parts: AppParts): FastifyInstance {
  const { log } = parts;
  const handleError = errorHandler(log);
  const app = Fastify({
    bodyLimit: limits.jsonBodyBytesMax,
    // A file may take any time to send; the headers may not, which Node sees to.
    requestTimeout: 0,
    forceCloseConnections: 'idle',
    frameworkErrors: handleError,
    clientErrorHandler: (error, socket) => answerClientError(error, socket),
  });
  app.setErrorHandler(handleError);
  app.setValidatorCompiler(validatorCompiler);
  app.removeContentTypeParser('text/plain');
  acceptEmptyJson(app);
  askForToken(app, parts);
  answerUnknownRoutes(app);
  hostRoutes(app, parts);
  snapshotRoutes(app, parts);
  sandboxRoutes(app, parts);
  commandRoutes(app, parts);
  fileRoutes(app, parts);
  workspaceRoutes(app, parts);
  eventRoutes(app, parts);
  return app;
}

/** On the port only: the unix socket is its owner's. Who asks whether the controller is up need not be anybody. */
function askForToken(app: FastifyInstance, { tokens, listener }: AppParts): void {
  if (tokens === null || listener === 'socket') return;
  app.addHook('onRequest', async (request, reply) => {
    if (request.method === 'GET' && request.url === '/healthz') return;
    void reply.header('www-authenticate', 'Bearer');
    await tokens.check(`${request.method} ${request.url}`, request.headers.authorization);
    void reply.removeHeader('www-authenticate');
  });
}

/** Clients say application/json also where they send nothing. */
function acceptEmptyJson(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body === '') done(null, undefined);
    else void parseJson(request, body.toString(), done);
  });
}
