import { parse } from 'node:querystring';
import { ApiError, decodeQueryValue, limits } from '@forkd/api';
import Fastify, { type FastifyInstance, LogController } from 'fastify';
import type { AppParts } from './app-parts.ts';
import { answerClientError, errorHandler } from './errors.ts';
import { readJsonBodies } from './json-body.ts';
import { answerUnknownRoutes } from './not-found.ts';
import { describeRoutes } from './openapi/document.ts';
import { admitToPort } from './ports/admit.ts';
import { portCallOf, routedUrl } from './ports/calls.ts';
import type { PortHosts } from './ports/hosts.ts';
import { forwardToPorts } from './ports/route.ts';
import { pathOf, requestIdOf, whereOf } from './request-id.ts';
import { commandRoutes } from './routes/commands.ts';
import { docsRoutes } from './routes/docs.ts';
import { eventRoutes } from './routes/events.ts';
import { fileRoutes } from './routes/files.ts';
import { hostRoutes } from './routes/host.ts';
import { metricsRoutes } from './routes/metrics.ts';
import { networkRoutes } from './routes/network.ts';
import { sandboxRoutes } from './routes/sandboxes.ts';
import { snapshotRoutes } from './routes/snapshots.ts';
import { workspaceRoutes } from './routes/workspaces.ts';
import { makeServer } from './server-factory.ts';
import { ticketOf } from './tickets.ts';
import { begin, trackRequests } from './track.ts';
import { reportUnknownFields } from './unknown-fields.ts';
import { validatorCompiler } from './validation.ts';
import { keepPagesOut } from './web-guard.ts';

/** The HTTP side of the controller, for one listener. */
export function buildApp(parts: AppParts): FastifyInstance {
  const app = guardedApp(parts, errorHandler, parts.ports);
  askForToken(app, parts);
  forwardToPorts(app, parts);
  answerUnknownRoutes(app);
  reportUnknownFields(app);
  const documentOf = describeRoutes(app);
  hostRoutes(app, parts);
  metricsRoutes(app, parts);
  snapshotRoutes(app, parts);
  sandboxRoutes(app, parts);
  commandRoutes(app, parts);
  fileRoutes(app, parts);
  networkRoutes(app, parts);
  workspaceRoutes(app, parts);
  eventRoutes(app, parts);
  docsRoutes(app, documentOf);
  parts.upgrades.serve(app);
  return app;
}

/**
 * A server without routes, which bounds, follows and guards each request. `onError` replies to those that fail. `ports` are the host
 * names that stand for ports of sandboxes; without them every request is for the server itself.
 */
export function guardedApp(
  parts: AppParts,
  onError: typeof errorHandler,
  ports: PortHosts | null = null,
): FastifyInstance {
  const { log, bounds, listener, metrics } = parts;
  const tls = listener === 'tcp' ? parts.tls : null;
  const app = Fastify({
    bodyLimit: limits.jsonBodyBytesMax,
    serverFactory: (handler) => makeServer(handler, bounds, tls, ports, () => metrics.connectionRefused()),
    forceCloseConnections: 'idle',
    // Let the route refuse an id that is too long: otherwise the reply would say that the route does not exist.
    routerOptions: { maxParamLength: bounds.urlBytesMax, querystringParser: parseQuery },
    rewriteUrl: (raw) => (ports === null ? (raw.url ?? '/') : routedUrl(ports, raw)),
    genReqId: (raw) => requestIdOf(raw),
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
    childLoggerFactory: (_none, bindings) => log.child(bindings),
    frameworkErrors: (error, request, reply) => {
      begin(parts, request, reply);
      onError(error, request, reply);
    },
    clientErrorHandler: (error, socket) => answerClientError(error, socket),
  });
  app.setErrorHandler(onError);
  app.setValidatorCompiler(validatorCompiler);
  app.removeContentTypeParser(['text/plain', 'application/json']);
  readJsonBodies(app, bounds);
  trackRequests(app, parts);
  refuseLongUrls(app, bounds.urlBytesMax);
  wantHost(app);
  if (listener === 'tcp') keepPagesOut(app, parts.hosts, ports);
  return app;
}

/** Keeps the bytes of a path that is not UTF-8. */
function parseQuery(text: string) {
  return parse(text, '&', '=', { decodeURIComponent: decodeQueryValue });
}

function refuseLongUrls(app: FastifyInstance, bytesMax: number): void {
  app.addHook('onRequest', async (request) => {
    if (request.url.length <= bytesMax) return;
    throw new ApiError('url_too_long', `${whereOf(request)}: the URL is longer than ${bytesMax} bytes.`);
  });
}

/** HTTP/1.1 requires the header, so that proxies and the controller mean the same server. */
function wantHost(app: FastifyInstance): void {
  app.addHook('onRequest', async (request) => {
    if (request.headers.host !== undefined || request.raw.httpVersion === '1.0') return;
    throw new ApiError('bad_request', `${whereOf(request)}: the header Host is missing.`);
  });
}

/**
 * Requires a token on the TCP port only: the unix socket is for its owner alone. `/healthz` needs no token. A ticket stands for
 * the token with which it was got.
 */
function askForToken(app: FastifyInstance, { tokens, tickets, listener, portKey, tls }: AppParts): void {
  const isAsked = tokens !== null && listener === 'tcp';
  const gate = { tokens, isAsked, key: portKey, isTls: listener === 'tcp' && tls !== null };
  app.addHook('onRequest', async (request, reply) => {
    const call = portCallOf(request.raw);
    if (call !== null) return admitToPort(request, reply, call, gate);
    if (!isAsked || (request.method === 'GET' && request.url === '/healthz')) return;
    const ticket = ticketOf(request.headers['sec-websocket-protocol']);
    if (ticket !== undefined && request.headers.authorization === undefined) {
      request.tokenId = tickets.use(whereOf(request), pathOf(request.url), ticket);
      return;
    }
    reply.header('www-authenticate', 'Bearer');
    request.tokenId = await tokens.check(whereOf(request), request.headers.authorization);
    reply.removeHeader('www-authenticate');
  });
}
