import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type ErrorBody, type ErrorEvent, ApiError } from '@forkd/api';
import type { FastifyBaseLogger, FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { toApiError } from '../errors.ts';
import { printable, visibleStart } from './excerpt.ts';
import { pathOf, requestIdOf, whereOf } from './request-id.ts';
import { isCallerGone } from './signals.ts';

/** Turns whatever a request ended with into a reply: one shape for all, the framework's own refusals included. */
export function errorHandler(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const failure = fromFramework(error, request) ?? toApiError(error);
  record(request.log, request, failure);
  if (reply.sent || reply.raw.headersSent) return;
  // The rest of such a request will not be read.
  if (failure.code === 'too_large' || failure.code === 'request_timeout') reply.header('connection', 'close');
  reply.code(failure.status).type('application/json').send(bodyOf(failure, request.id));
}

/** The last line of a stream that went wrong after its status line was sent. */
export function errorEvent(log: Logger, request: FastifyRequest, error: unknown): ErrorEvent {
  const failure = toApiError(error);
  record(log.child({ request_id: request.id }), request, failure);
  return { type: 'error', ...(bodyOf(failure, request.id) as Omit<ErrorEvent, 'type'>) };
}

/** Messages quote callers and guests, so characters that a terminal would act on are escaped for every client. */
function bodyOf(failure: ApiError, requestId: string): ErrorBody {
  const body = failure.toBody();
  return { ...body, error: printable(body.error), request_id: requestId };
}

/**
 * Mistakes of callers are logged without the message, which may quote their input. A caller who has left is no mistake.
 * Faults of the host are logged as warnings for its owner, and bugs as errors with their stack.
 */
function record(log: FastifyBaseLogger, { method, url }: FastifyRequest, failure: ApiError): void {
  const { code, message } = failure;
  const what = `${method} ${pathOf(url)}`;
  if (isCallerGone(failure)) log.debug({ code }, `${what}: the caller has gone away`);
  else if (failure.class === 'bug') log.error({ err: failure.cause ?? failure }, `${what}: ${message}`);
  else if (failure.class === 'system') log.warn({ code }, `${what}: ${message}`);
  else log.debug({ code }, `${what} is refused`);
}

/** The error of a request that Fastify refuses by itself, before a handler is called. */
function fromFramework(error: unknown, request: FastifyRequest): ApiError | null {
  if (!isFastifyError(error)) return null;
  const where = whereOf(request);
  switch (error.code) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new ApiError('bad_media_type', `${where}: the body's content-type is not one that this route takes.`);
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return new ApiError('bad_request', `${where}: the body is not JSON: ${error.message}`);
    default: {
      const status = error.statusCode ?? 500;
      return status < 500 ? new ApiError('bad_request', `${where}: ${error.message}`, { cause: error }) : null;
    }
  }
}

function isFastifyError(error: unknown): error is FastifyError {
  return error instanceof Error && !(error instanceof ApiError) && 'code' in error && 'statusCode' in error;
}

/** A request that is not HTTP has no route and no reply object, so the answer is written by hand. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  // No reply can be sent after a failed TLS handshake.
  const isTls = /^(ERR_SSL|ERR_TLS|EPROTO)/.test(error.code ?? '');
  if (isTls || error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  refuse(socket, clientErrorOf(error));
}

/** `CONNECT` asks for a tunnel. Node would close the connection without a reply. */
export function answerConnect({ url = '' }: IncomingMessage, socket: Duplex): void {
  refuse(socket, new ApiError('method_not_allowed', `There is no route CONNECT ${visibleStart(url)}.`));
}

function refuse(socket: Duplex, failure: ApiError): void {
  const requestId = requestIdOf({ headers: {} });
  const text = JSON.stringify(bodyOf(failure, requestId));
  const head = [
    `HTTP/1.1 ${failure.status} ${STATUS_CODES[failure.status] ?? ''}`,
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(text)}`,
    `x-request-id: ${requestId}`,
    'connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${text}`);
}

function clientErrorOf(error: NodeJS.ErrnoException): ApiError {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new ApiError('headers_too_large', 'The headers of the request are longer than they may be.');
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new ApiError('request_timeout', 'The headers of the request did not arrive in time.');
    default:
      return new ApiError('bad_request', `The request is not HTTP: ${error.message}.`);
  }
}
