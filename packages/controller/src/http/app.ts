import { ApiError, limits } from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import Fastify, { LogController } from 'fastify';

import type { AppParts } from './app-parts.ts';
import { answerClientError, errorHandler } from './errors.ts';
import { readJsonBodies } from './json-body.ts';
import { answerUnknownRoutes } from './not-found.ts';
import { pathOf, requestIdOf } from './request-id.ts';
import { describeRoutes } from './openapi/document.ts';
import { commandRoutes } from './routes/commands.ts';
import { docsRoutes } from './routes/docs.ts';
import { eventRoutes } from './routes/events.ts';
import { fileRoutes } from './routes/files.ts';
import { hostRoutes } from './routes/host.ts';
import { metricsRoutes } from './routes/metrics.ts';
import { sandboxRoutes } from './routes/sandboxes.ts';
import { snapshotRoutes } from './routes/snapshots.ts';
import { workspaceRoutes } from './routes/workspaces.ts';
import { makeServer } from './server-factory.ts';
import { begin, trackRequests } from './track.ts';
import { validatorCompiler } from './validation.ts';

/** The HTTP side of the controller, for one listener. */
export function buildApp(parts: AppParts): FastifyInstance {
  const { log, bounds, listener, metrics } = parts;
  const tls = listener === 'tcp' ? parts.tls : null;
  const app = Fastify({
    bodyLimit: limits.jsonBodyBytesMax,
    serverFactory: (handler) => makeServer(handler, bounds, tls, () => metrics.connectionRefused()),
    forceCloseConnections: 'idle',
    // An id that is too long is one that is not there: the route says so, and not that there is no route.
    routerOptions: { maxParamLength: bounds.urlBytesMax },
    genReqId: (raw) => requestIdOf(raw),
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
    childLoggerFactory: (_none, bindings) => log.child(bindings),
    frameworkErrors: (error, request, reply) => {
      begin(parts, request, reply);
      errorHandler(error, request, reply);
    },
    clientErrorHandler: (error, socket) => answerClientError(error, socket),
  });
  app.setErrorHandler(errorHandler);
  app.setValidatorCompiler(validatorCompiler);
  app.removeContentTypeParser(['text/plain', 'application/json']);
  readJsonBodies(app, bounds.jsonBodyTimeoutMs);
  trackRequests(app, parts);
  refuseLongUrls(app, bounds.urlBytesMax);
  wantHost(app);
  askForToken(app, parts);
  answerUnknownRoutes(app);
  const documentOf = describeRoutes(app);
  hostRoutes(app, parts);
  metricsRoutes(app, parts);
  snapshotRoutes(app, parts);
  sandboxRoutes(app, parts);
  commandRoutes(app, parts);
  fileRoutes(app, parts);
  workspaceRoutes(app, parts);
  eventRoutes(app, parts);
  docsRoutes(app, documentOf);
  return app;
}

function refuseLongUrls(app: FastifyInstance, bytesMax: number): void {
  app.addHook('onRequest', async ({ url, method }) => {
    if (url.length <= bytesMax) return;
    throw new ApiError('url_too_long', `${method} ${url.slice(0, 80)}…: the URL is longer than ${bytesMax} bytes.`);
  });
}

/** HTTP/1.1 asks for it, so that proxies and we mean the same server. */
function wantHost(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ method, url, headers, raw }) => {
    if (headers.host !== undefined || raw.httpVersion === '1.0') return;
    throw new ApiError('bad_request', `${method} ${pathOf(url)}: the header Host is missing.`);
  });
}

/** On the port only: the unix socket is its owner's. Who asks whether the controller is up need not be anybody. */
function askForToken(app: FastifyInstance, { tokens, listener }: AppParts): void {
  if (tokens === null || listener === 'socket') return;
  app.addHook('onRequest', async (request, reply) => {
    if (request.method === 'GET' && request.url === '/healthz') return;
    void reply.header('www-authenticate', 'Bearer');
    request.tokenId = await tokens.check(`${request.method} ${pathOf(request.url)}`, request.headers.authorization);
    void reply.removeHeader('www-authenticate');
  });
}
