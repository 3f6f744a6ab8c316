import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyRequest } from 'fastify';

/** Routes whose body is bytes of any kind and length, which are passed on as they come. */
export function withRawBodies(app: FastifyInstance, addRoutes: (raw: FastifyInstance) => void): void {
  app.register((raw, _options, done) => {
    raw.removeAllContentTypeParsers();
    raw.addContentTypeParser('*', (_request, payload, parsed) => parsed(null, payload));
    addRoutes(raw);
    done();
  });
}

export function rawBody({ body }: FastifyRequest): AsyncIterable<Uint8Array> {
  return body instanceof Readable ? body : Readable.from([]);
}
