import type { Socket } from 'node:net';

import type { ErrorBody, ErrorEvent } from '@forkd/api';
import { ApiError, limits } from '@forkd/api';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { toApiError } from '../errors.ts';
import { isCallerGone } from './signals.ts';

/** Turns whatever a request ended with into a reply: one shape for all, the framework's own refusals included. */
export function errorHandler(log: Logger) {
  return (error: unknown, request: FastifyRequest, reply: FastifyReply): void => {
    const failure = fromFramework(error, request) ?? toApiError(error);
    record(log, `${request.method} ${request.url}`, failure);
    if (reply.sent || reply.raw.headersSent) return;
    void reply.code(failure.status).type('application/json').send(failure.toBody());
  };
}

/** The last line of a stream that went wrong after its status line was sent. */
export function errorEvent(log: Logger, what: string, error: unknown): ErrorEvent {
  const failure = toApiError(error);
  record(log, what, failure);
  return { type: 'error', ...(failure.toBody() as Omit<ErrorEvent, 'type'>) };
}

/**
 * A user's mistake is the user's to read, and a caller who has gone away is no mistake at all; what the host lacks its owner
 * must see; a bug we must, with its stack.
 */
function record(log: Logger, what: string, failure: ApiError): void {
  const { code, message } = failure;
  if (isCallerGone(failure)) log.debug({ code }, `${what}: ${message}`);
  else if (failure.class === 'bug') log.error({ err: failure.cause ?? failure }, `${what}: ${message}`);
  else if (failure.class === 'system') log.warn({ code }, `${what}: ${message}`);
  else log.debug({ code }, `${what}: ${message}`);
}

/** What Fastify refuses by itself, before a handler is called. */
function fromFramework(error: unknown, { method, url }: FastifyRequest): ApiError | null {
  if (!isFastifyError(error)) return null;
  const where = `${method} ${url}`;
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new ApiError('too_large', `${where}: the body is longer than ${limits.jsonBodyBytesMax} bytes.`);
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

/** A request that is no HTTP has no route and no reply object: the answer is written by hand. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const body: ErrorBody = new ApiError('bad_request', `The request is not HTTP: ${error.message}.`).toBody();
  const text = JSON.stringify(body);
  const head = [
    'HTTP/1.1 400 Bad Request',
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(text)}`,
  ];
  socket.end(`${head.join('\r\n')}\r\nconnection: close\r\n\r\n${text}`);
}
