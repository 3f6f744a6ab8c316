import { Readable } from 'node:stream';

import { DeleteFileQuery, DirQuery, FileQuery, SandboxParams } from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import type { SchemaTypes } from '../validation.ts';

const base = '/v1/sandboxes/:id/files';

export function fileRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { guests } = services;
  const params = SandboxParams;

  app.get(base, { schema: { params, querystring: FileQuery } }, async (request, reply) => {
    const file = await guests.readFile(request.params.id, request.query.path, signals.ofCall(reply));
    if (file.sizeBytes !== undefined) reply.header('content-length', file.sizeBytes);
    return reply.type('application/octet-stream').send(Readable.from(file.data));
  });
  app.delete(base, { schema: { params, querystring: DeleteFileQuery } }, async (request, reply) => {
    const { path, recursive = false } = request.query;
    await guests.removeFile(request.params.id, path, recursive, signals.ofCall(reply));
    return reply.code(204).send();
  });
  app.get('/v1/sandboxes/:id/dir', { schema: { params, querystring: DirQuery } }, (request, reply) =>
    guests.listDir(request.params.id, request.query.path, signals.ofCall(reply)),
  );

  withRawBodies(instance, (raw) => {
    const typed = raw.withTypeProvider<SchemaTypes>();
    typed.put(base, { schema: { params, querystring: FileQuery } }, async (request, reply) => {
      await guests.writeFile(request.params.id, request.query, rawBody(request), signals.ofCall(reply));
      return reply.code(204).send();
    });
  });
}
