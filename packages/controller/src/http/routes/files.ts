import { Readable } from 'node:stream';

import { DeleteFileQuery, DirList, DirQuery, FileQuery, SandboxParams } from '@forkd/api';
import type { FastifyInstance } from 'fastify';

import type { AppParts } from '../app-parts.ts';
import { guestErrors } from '../openapi/errors.ts';
import { bytes, json, nothing, operationsOf } from '../openapi/operation.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import type { SchemaTypes } from '../validation.ts';

const base = '/v1/sandboxes/:id/files';

export function fileRoutes(instance: FastifyInstance, { services, signals }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const { guests } = services;
  const params = SandboxParams;

  const read = { schema: { params, querystring: FileQuery }, exposeHeadRoute: false, config: described.read };
  app.get(base, read, async (request, reply) => {
    const file = await guests.readFile(request.params.id, request.query.path, signals.ofCall(reply));
    if (file.sizeBytes !== undefined) reply.header('content-length', file.sizeBytes);
    return reply.type('application/octet-stream').send(Readable.from(file.data));
  });
  const removal = { schema: { params, querystring: DeleteFileQuery }, config: described.remove };
  app.delete(base, removal, async (request, reply) => {
    const { path, recursive = false } = request.query;
    await guests.removeFile(request.params.id, path, recursive, signals.ofCall(reply));
    return reply.code(204).send();
  });
  const listing = { schema: { params, querystring: DirQuery }, config: described.list };
  app.get('/v1/sandboxes/:id/dir', listing, (request, reply) =>
    guests.listDir(request.params.id, request.query.path, signals.ofCall(reply)),
  );

  withRawBodies(instance, (raw) => {
    const typed = raw.withTypeProvider<SchemaTypes>();
    const write = { schema: { params, querystring: FileQuery }, config: described.write };
    typed.put(base, write, async (request, reply) => {
      await guests.writeFile(request.params.id, request.query, rawBody(request), signals.ofCall(reply));
      return reply.code(204).send();
    });
  });
}

const operation = operationsOf('files');
const pathErrors = [...guestErrors, 'bad_path', 'not_found_file', 'not_a_directory', 'permission_denied'] as const;

const described = {
  read: operation('readFile', 'The bytes of a file.', {
    replies: { 200: bytes('The bytes.', 'application/octet-stream') },
    errors: [...pathErrors, 'not_a_file', 'is_a_directory'],
  }),
  write: operation('writeFile', 'Writes a file, and makes the folders that it is in.', {
    rawBody: 'The bytes of the file, of any media type and length.',
    replies: { 204: nothing('It is written.') },
    errors: [...pathErrors, 'not_a_file', 'is_a_directory', 'read_only', 'no_space_in_guest'],
  }),
  remove: operation('deleteFile', 'Removes a file or a directory.', {
    replies: { 204: nothing('It is gone.') },
    errors: [...pathErrors, 'is_a_directory', 'directory_not_empty', 'read_only'],
  }),
  list: operation('listDir', 'What is in a directory.', {
    replies: { 200: json('Its entries.', DirList) },
    errors: [...pathErrors, 'too_many_entries'],
  }),
};
