import { Readable } from 'node:stream';
import {
  DeleteFileQuery,
  DirList,
  DirQuery,
  FileQuery,
  FileStat,
  FileWatchEvent,
  MakeDirQuery,
  RenameFileRequest,
  SandboxParams,
  StatQuery,
  WatchQuery,
} from '@forkd/api';
import type { FastifyInstance } from 'fastify';
import {
  listDir,
  makeDir,
  readFile,
  removeFile,
  renameFile,
  statFile,
  watchFiles,
  writeFile,
} from '../../operations/files.ts';
import type { AppParts } from '../app-parts.ts';
import { guestErrors } from '../openapi/errors.ts';
import { bytes, json, nothing, operationsOf, serverSentEvents } from '../openapi/operation.ts';
import { rawBody, withRawBodies } from '../raw-body.ts';
import { sendLarge, sendServerSentEvents } from '../streams.ts';
import type { SchemaTypes } from '../validation.ts';

const BASE = '/v1/sandboxes/:id/files';

export function fileRoutes(instance: FastifyInstance, { run, signals, log }: AppParts): void {
  const app = instance.withTypeProvider<SchemaTypes>();
  const params = SandboxParams;

  const read = { schema: { params, querystring: FileQuery }, exposeHeadRoute: false, config: described.read };
  app.get(BASE, read, async (request, reply) => {
    const file = await run(readFile, request.params.id, request.query.path, signals.ofCall(reply));
    if (file.sizeBytes !== undefined) reply.header('content-length', file.sizeBytes);
    return reply.type('application/octet-stream').send(Readable.from(file.data));
  });
  const removal = { schema: { params, querystring: DeleteFileQuery }, config: described.remove };
  app.delete(BASE, removal, async (request, reply) => {
    const { path, recursive = false } = request.query;
    await run(removeFile, request.params.id, path, recursive, signals.ofCall(reply));
    return reply.code(204).send();
  });
  const listing = { schema: { params, querystring: DirQuery }, config: described.list };
  app.get('/v1/sandboxes/:id/dir', listing, async (request, reply) =>
    sendLarge(reply, await run(listDir, request.params.id, request.query.path, signals.ofCall(reply))),
  );
  const making = { schema: { params, querystring: MakeDirQuery }, config: described.makeDir };
  app.put('/v1/sandboxes/:id/dir', making, async (request, reply) => {
    await run(makeDir, request.params.id, request.query, signals.ofCall(reply));
    return reply.code(204).send();
  });
  const stat = { schema: { params, querystring: StatQuery }, config: described.stat };
  app.get('/v1/sandboxes/:id/stat', stat, (request, reply) =>
    run(statFile, request.params.id, request.query, signals.ofCall(reply)),
  );
  const renaming = { schema: { params, body: RenameFileRequest }, config: described.rename };
  app.post('/v1/sandboxes/:id/rename', renaming, async (request, reply) => {
    await run(renameFile, request.params.id, request.body, signals.ofCall(reply));
    return reply.code(204).send();
  });

  const watch = { schema: { params, querystring: WatchQuery }, exposeHeadRoute: false, config: described.watch };
  app.get(`${BASE}/watch`, watch, async (request, reply) => {
    const events = await run(watchFiles, request.params.id, request.query, signals.ofStream(reply));
    return sendServerSentEvents(reply, log, events);
  });

  withRawBodies(instance, (raw) => {
    const typed = raw.withTypeProvider<SchemaTypes>();
    const write = { schema: { params, querystring: FileQuery }, config: described.write };
    typed.put(BASE, write, async (request, reply) => {
      await run(writeFile, request.params.id, request.query, rawBody(request), signals.ofCall(reply));
      return reply.code(204).send();
    });
  });
}

const operation = operationsOf('files');
const pathErrors = [...guestErrors, 'bad_path', 'not_found_file', 'not_a_directory', 'permission_denied'] as const;

const described = {
  read: operation('readFile', 'Reads a file.', {
    replies: { 200: bytes('The content of the file.', 'application/octet-stream', 'hello\n') },
    errors: [...pathErrors, 'not_a_file', 'is_a_directory'],
  }),
  write: operation('writeFile', 'Writes a file, and creates the directories that lead to it.', {
    rawBody: 'The content of the file. Any media type and any length is accepted.',
    replies: { 204: nothing('The file was written.') },
    errors: [...pathErrors, 'not_a_file', 'is_a_directory', 'read_only', 'no_space_in_guest'],
  }),
  remove: operation('deleteFile', 'Removes a file or a directory.', {
    replies: { 204: nothing('The file or directory is gone.') },
    errors: [...pathErrors, 'is_a_directory', 'directory_not_empty', 'read_only'],
  }),
  list: operation('listDir', 'Lists a directory.', {
    replies: { 200: json('The entries of the directory.', DirList) },
    errors: [...pathErrors, 'too_many_entries', 'output_budget'],
  }),
  makeDir: operation('makeDir', 'Makes a directory, and the directories that lead to it, unless it exists.', {
    replies: { 204: nothing('The directory exists.') },
    errors: [...pathErrors, 'read_only', 'no_space_in_guest'],
  }),
  stat: operation('statFile', 'Describes what is at a path.', {
    replies: { 200: json('What is at the path.', FileStat) },
    errors: pathErrors,
  }),
  rename: operation('renameFile', 'Renames a file or a directory within a file system.', {
    replies: { 204: nothing('The file or directory has its new path.') },
    errors: [...pathErrors, 'is_a_directory', 'directory_not_empty', 'read_only', 'no_space_in_guest'],
  }),
  watch: operation('watchFiles', 'Streams what happens to a file, or to the files of a directory.', {
    description:
      'Server-sent events, until the caller leaves or the watched path itself is removed or renamed. A program that saves a ' +
      'file often replaces it, so watch its directory to follow it. Writing a file with this API is a `create` too.',
    replies: {
      200: serverSentEvents('The events, one per `data`. Comments keep the connection alive.', FileWatchEvent),
    },
    errors: [...pathErrors, 'too_many_watches'],
  }),
};
