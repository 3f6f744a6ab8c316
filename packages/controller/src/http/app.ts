import { limits } from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import Fastify from 'fastify';

import type { AppParts } from './app-parts.ts';
import { answerClientError, errorHandler } from './errors.ts';
import { answerUnknownRoutes } from './not-found.ts';
import { commandRoutes } from './routes/commands.ts';
import { fileRoutes } from './routes/files.ts';
import { hostRoutes } from './routes/host.ts';
import { sandboxRoutes } from './routes/sandboxes.ts';
import { snapshotRoutes } from './routes/snapshots.ts';
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
  answerUnknownRoutes(app);
  hostRoutes(app, parts);
  snapshotRoutes(app, parts);
  sandboxRoutes(app, parts);
  commandRoutes(app, parts);
  fileRoutes(app, parts);
  return app;
}

/** Clients say application/json also where they send nothing. */
function acceptEmptyJson(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body === '') done(null, undefined);
    else void parseJson(request, body.toString(), done);
  });
}
