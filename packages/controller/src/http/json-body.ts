import type { IncomingMessage } from 'node:http';

import { ApiError, limits } from '@forkd/api';
import type { FastifyInstance, FastifyRequest } from 'fastify';

import { pathOf } from './request-id.ts';

/** Of a body that is too long, so much is taken all the same: its sender is to read why it is refused, and not a broken pipe. */
const discardedBytesMax = 4 * limits.jsonBodyBytesMax;

/** Reads JSON bodies, which have a length and a time. Clients say application/json also where they send nothing. */
export function readJsonBodies(app: FastifyInstance, timeoutMs: number): void {
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', async (request: FastifyRequest, payload: IncomingMessage) => {
    const text = await readText(request, payload, timeoutMs);
    if (text === '') return undefined;
    return new Promise((resolve, reject) => {
      void parseJson(request, text, (error, value) => (error === null ? resolve(value) : reject(error)));
    });
  });
}

/** The caller has all of `timeoutMs` for it, however often he sends a byte. */
function readText(request: FastifyRequest, payload: IncomingMessage, timeoutMs: number): Promise<string> {
  const where = `${request.method} ${pathOf(request.url)}`;
  const tooLarge = () =>
    new ApiError('too_large', `${where}: the body is longer than ${limits.jsonBodyBytesMax} bytes.`);
  if (Number(request.headers['content-length']) > discardedBytesMax) return Promise.reject(tooLarge());
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const settle = (finish: () => void): void => {
      clearTimeout(timer);
      payload.off('data', onData).off('end', onEnd).off('error', onError);
      finish();
    };
    const fail = (error: Error): void => settle(() => reject(error));
    const timer = setTimeout(() => {
      fail(new ApiError('request_timeout', `${where}: the body did not arrive within ${timeoutMs / 1000} s.`));
    }, timeoutMs);
    const onData = (chunk: Buffer): void => {
      size += chunk.length;
      if (size <= limits.jsonBodyBytesMax) chunks.push(chunk);
      else chunks.length = 0;
      if (size > discardedBytesMax) fail(tooLarge());
    };
    const onEnd = (): void => {
      if (size > limits.jsonBodyBytesMax) fail(tooLarge());
      else settle(() => resolve(Buffer.concat(chunks).toString('utf8')));
    };
    const onError = (cause: Error): void =>
      fail(new ApiError('bad_request', `${where}: the body ended too early.`, { cause }));
    payload.on('data', onData).on('end', onEnd).on('error', onError);
  });
}
