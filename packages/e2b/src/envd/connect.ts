import { PassThrough, pipeline, Readable } from 'node:stream';
import { ApiError } from '@forkd/api';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Static, TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { ConnectError, isGone, toConnectError } from '../errors.ts';
import { limits } from '../limits.ts';

/**
 * The Connect protocol with its JSON codec, which is all that E2B's SDKs speak. A call with one request and one reply is plain
 * JSON. A stream is envelopes: a byte of flags, the length as 4 bytes with the highest first, and JSON. The last envelope of a
 * reply has flag 2 and holds the error, if there is one.
 */
export const STREAM_MEDIA_TYPE = 'application/connect+json';
const COMPRESSED = 1;
const END = 2;
const HEAD_BYTES = 5;

/** Reads messages of one type. */
export interface Reader<Message> {
  read(value: unknown): Message;
}

/** Unknown fields are ignored, and names may have underscores, as the JSON of Protocol Buffers wants it. */
export function readerOf<Schema extends TSchema>(schema: Schema): Reader<Static<Schema>> {
  const validator = Compile(schema);
  return {
    read(value) {
      const message = withCamelNames(value ?? {});
      if (validator.Check(message)) return message;
      const [problem] = validator.Errors(message);
      const where = problem?.instancePath === '' ? 'The message' : `Field ${problem?.instancePath ?? ''}`;
      throw new ConnectError('invalid_argument', `${where} ${problem?.message ?? 'is wrong'}.`);
    },
  };
}

function withCamelNames(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const names = Object.entries(value).map(([name, field]) => [
    name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
    field,
  ]);
  return Object.fromEntries(names) as object;
}

/** The messages of a request that is a stream. */
export async function* messagesOf<Message>(request: FastifyRequest, reader: Reader<Message>): AsyncGenerator<Message> {
  const { body } = request;
  if (!(body instanceof Readable)) throw new ConnectError('invalid_argument', `The body is not ${STREAM_MEDIA_TYPE}.`);
  let held: Buffer = Buffer.alloc(0);
  for await (const chunk of body as AsyncIterable<Buffer>) {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    while (held.length >= HEAD_BYTES) {
      const bytes = lengthOf(held);
      if (held.length < HEAD_BYTES + bytes) break;
      const flags = held[0] ?? 0;
      if ((flags & END) !== 0) return;
      yield reader.read(parsed(held.subarray(HEAD_BYTES, HEAD_BYTES + bytes)));
      held = held.subarray(HEAD_BYTES + bytes);
    }
  }
  if (held.length > 0) throw new ConnectError('invalid_argument', 'The last envelope is cut off.');
}

/** The only message of a request whose reply is a stream. */
export async function messageOf<Message>(request: FastifyRequest, reader: Reader<Message>): Promise<Message> {
  for await (const message of messagesOf(request, reader)) return message;
  throw new ConnectError('invalid_argument', 'The body has no message.');
}

function lengthOf(held: Buffer): number {
  const flags = held[0] ?? 0;
  if ((flags & COMPRESSED) !== 0) throw new ConnectError('unimplemented', 'Compressed messages are not accepted.');
  const bytes = held.readUInt32BE(1);
  if (bytes <= limits.envelopeBytesMax) return bytes;
  const sentence = `A message has ${bytes} bytes, and may have ${limits.envelopeBytesMax}.`;
  throw new ConnectError('resource_exhausted', sentence);
}

function parsed(json: Buffer): unknown {
  try {
    return JSON.parse(json.toString('utf8')) as unknown;
  } catch {
    throw new ConnectError('invalid_argument', 'The message is not JSON.');
  }
}

function envelope(flags: number, message: object): Buffer {
  const json = Buffer.from(JSON.stringify(message));
  const head = Buffer.alloc(HEAD_BYTES);
  head[0] = flags;
  head.writeUInt32BE(json.length, 1);
  return Buffer.concat([head, json]);
}

/**
 * Replies with a stream of messages, and with `keepalive` whenever none was sent for a while. Only a sandbox that is gone
 * changes the status of the reply: every other error is in the last envelope.
 */
export async function sendMessages(
  reply: FastifyReply,
  messages: AsyncGenerator<object>,
  keepalive: object,
): Promise<FastifyReply> {
  const first = await messages.next().catch((error: unknown) => {
    if (isGone(error)) throw error;
    return { done: true, failure: error } as const;
  });
  const channel = new PassThrough();
  const beatMs = keepaliveMs(reply.request);
  const beat = setInterval(() => channel.write(envelope(0, keepalive)), beatMs);
  async function* envelopes(): AsyncGenerator<Buffer> {
    try {
      if ('failure' in first) throw first.failure;
      if (first.done !== true) yield envelope(0, first.value);
      for await (const message of messages) {
        beat.refresh();
        yield envelope(0, message);
      }
      yield envelope(END, {});
    } catch (error) {
      yield envelope(END, { error: streamError(reply, error) });
    } finally {
      await messages.return(undefined);
    }
  }
  pipeline(Readable.from(envelopes()), channel, () => clearInterval(beat));
  return reply.header('cache-control', 'no-store').type(STREAM_MEDIA_TYPE).send(channel);
}

/** Replies to a request that is a stream with a single message. */
export async function sendMessage(reply: FastifyReply, work: () => Promise<object>): Promise<FastifyReply> {
  async function* one(): AsyncGenerator<object> {
    yield await work();
  }
  return sendMessages(reply, one(), {});
}

function streamError(reply: FastifyReply, error: unknown): object {
  if (error instanceof ConnectError) return error.toBody();
  if (error instanceof ApiError) {
    if (isGone(error)) return new ConnectError('unavailable', 'The sandbox was not found.').toBody();
    return toConnectError(error).toBody();
  }
  reply.log.error({ err: error }, 'a stream failed');
  return new ConnectError('internal', 'Something went wrong inside the controller.').toBody();
}

function keepaliveMs({ headers }: FastifyRequest): number {
  const asked = Number(headers['keepalive-ping-interval'] ?? limits.keepaliveSecsDefault);
  const secs = Number.isFinite(asked) ? asked : limits.keepaliveSecsDefault;
  return Math.min(Math.max(secs, limits.keepaliveSecsMin), limits.keepaliveSecsMax) * 1000;
}
