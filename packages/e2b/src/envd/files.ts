import { posix } from 'node:path';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import { ConnectError, E2bError } from '../errors.ts';
import { absolutePath, userNameOf } from '../guest/user.ts';
import type { Parts } from '../parts.ts';
import { readerOf } from './connect.ts';
import { guestCall, type GuestCall } from './route.ts';
import { readForm } from './upload.ts';

const Text = Type.Optional(Type.String({ maxLength: 4096 }));
const Query = readerOf(Type.Object({ path: Text, username: Text }));

/** Files of the guest as bytes, and whether the guest answers. */
export function fileRoutes(app: FastifyInstance, parts: Parts): void {
  const { operations, signals } = parts;

  app.get('/health', (_request, reply) => reply.code(204).send());

  app.get('/files', async (request, reply) => {
    const { path = '', username } = Query.read(request.query);
    const call = await httpCall(parts, request, signals.ofCall(reply), username);
    const file = await operations.readFile(call.id, absolutePath(path, call.account), call.signal);
    if (file.sizeBytes !== undefined) reply.header('content-length', file.sizeBytes);
    return reply.type('application/octet-stream').send(Readable.from(file.data));
  });

  app.post('/files', async (request, reply) => {
    const { path, username } = Query.read(request.query);
    const call = await httpCall(parts, request, signals.ofCall(reply), username);
    const { body, headers } = request;
    if (!(body instanceof Readable)) throw new E2bError(400, 'The upload has no body.');
    const saved: object[] = [];
    const save = async (name: string, data: AsyncIterable<Uint8Array>): Promise<void> => {
      const target = absolutePath(name, call.account);
      await operations.writeFile(call.id, { path: target, user: call.account.name }, data, call.signal);
      saved.push({ name: posix.basename(target), type: 'file', path: target });
    };
    if (/^multipart\/form-data\b/i.test(headers['content-type'] ?? '')) {
      // The path of the query is that of a single file. Several have theirs as names.
      await readForm(headers, body, (name, data) => save(path || name, data));
    } else {
      if (!path) throw new E2bError(400, 'The query has no path.');
      await save(path, plainOf(request, body));
    }
    if (saved.length === 0) throw new E2bError(400, "The form has no field 'file'.");
    return reply.send(saved);
  });
}

/** The user of the query counts before the user of the header. */
async function httpCall(
  parts: Parts,
  request: FastifyRequest,
  signal: AbortSignal,
  username: string | undefined,
): Promise<GuestCall> {
  try {
    return await guestCall(parts, request, signal, username || userNameOf(request));
  } catch (error) {
    if (error instanceof ConnectError) throw new E2bError(error.status, error.message);
    throw error;
  }
}

/** The bytes of an upload, which may have been compressed on their way. */
function plainOf({ headers }: FastifyRequest, body: Readable): Readable {
  const encoding = headers['content-encoding'] ?? 'identity';
  if (encoding === 'identity') return body;
  if (encoding !== 'gzip') throw new E2bError(415, `The encoding '${encoding}' is not accepted, only gzip.`);
  const plain = createGunzip();
  body.once('error', (error) => plain.destroy(error));
  return Readable.from(checked(body.pipe(plain)));
}

async function* checked(plain: Readable): AsyncGenerator<Uint8Array> {
  try {
    yield* plain;
  } catch (error) {
    throw new E2bError(400, `The upload is not gzip: ${String(error)}.`);
  }
}
