import type { Span } from '@opentelemetry/api';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { endRequestSpan, requestSpan } from '../observe/tracing.ts';
import type { AppParts } from './app-parts.ts';
import { pathOf } from './request-id.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Names the presented token without revealing it. `null` if none was required. */
    tokenId: string | null;
    /** True once the connection is a WebSocket. */
    isUpgraded: boolean;
  }
}

/** The status in the logs for a request whose caller left before the reply began. */
const CALLER_LEFT_STATUS = 499;
/** The status of a request whose connection became a WebSocket. Its time is that of the WebSocket. */
const UPGRADED_STATUS = 101;

/** Follows each request from its first byte to its last: its id, its log lines, its time. */
export function trackRequests(app: FastifyInstance, parts: AppParts): void {
  app.decorateRequest('tokenId', null);
  app.decorateRequest('isUpgraded', false);
  app.addHook('onRequest', (request, reply, done) => {
    begin(parts, request, reply)(done);
  });
}

/**
 * Begins to follow a request. Called directly for requests that no hook sees because their path cannot be read. The
 * returned function runs the work of the request.
 */
export function begin(parts: AppParts, request: FastifyRequest, reply: FastifyReply): (run: () => void) => void {
  const { traffic, listener } = parts;
  // The socket forgets its address when it closes.
  const remote = listener === 'socket' ? 'unix' : (request.socket.remoteAddress ?? '');
  const beganMs = performance.now();
  const { span, inside } = requestSpan(request.method, request.headers);
  reply.header('x-request-id', request.id);
  traffic.began();
  reply.raw.once('close', () => {
    traffic.ended();
    record(parts, request, reply, { remote, ms: performance.now() - beganMs, span });
  });
  return inside;
}

function record(
  { audit, metrics }: AppParts,
  request: FastifyRequest,
  reply: FastifyReply,
  { remote, ms, span }: { remote: string; ms: number; span: Span },
): void {
  const { method, headers, id } = request;
  const path = pathOf(request.url);
  const unsent = request.isUpgraded ? UPGRADED_STATUS : CALLER_LEFT_STATUS;
  const status = reply.raw.headersSent ? reply.statusCode : unsent;
  request.log.debug({ method, path, status, ms: Math.round(ms) }, 'request');
  const route = request.routeOptions?.url ?? 'none';
  metrics.request({ route, method, status, ms });
  endRequestSpan(span, { method, route, status, id });
  audit?.write({
    time: new Date().toISOString(),
    method,
    path,
    status,
    latency_ms: Math.round(ms * 1000) / 1000,
    agent: headers['user-agent'] ?? null,
    remote,
    token_id: request.tokenId ?? null,
    request_id: id,
  });
}
