import { PassThrough, pipeline, Readable } from 'node:stream';

import { NDJSON_MEDIA_TYPE } from '@forkd/api';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { limits } from '../limits.ts';
import { errorEvent } from './errors.ts';

export function wantsEvents(request: FastifyRequest): boolean {
  return request.headers.accept?.includes(NDJSON_MEDIA_TYPE) ?? false;
}

/**
 * Replies with one JSON object a line. Nothing is sent before the first event is there: what goes wrong until then has
 * a status of its own.
 */
export async function sendEvents(
  reply: FastifyReply,
  log: Logger,
  events: AsyncGenerator<object>,
): Promise<FastifyReply> {
  const first = await events.next();
  async function* lines(): AsyncGenerator<string> {
    try {
      if (first.done !== true) yield lineOf(first.value);
      for await (const event of events) yield lineOf(event);
    } catch (error) {
      yield lineOf(errorEvent(log, reply.request, error));
    } finally {
      await events.return(undefined);
    }
  }
  return reply.type(NDJSON_MEDIA_TYPE).send(Readable.from(lines()));
}

/**
 * Replies with server-sent events, each with its id, by which a reader who was cut off says where it was. A comment now
 * and then keeps the connection from being taken for dead.
 */
export function sendServerSentEvents<Event extends { id: string; type: string }>(
  reply: FastifyReply,
  events: AsyncGenerator<Event>,
): FastifyReply {
  const channel = new PassThrough();
  const beat = setInterval(() => channel.write(':\n\n'), limits.eventBeatMs);
  channel.write(':\n\n');
  const source = Readable.from(textOf(events));
  // A reader who has gone and a controller that ends look the same from here: the stream is over.
  pipeline(source, channel, () => clearInterval(beat));
  return reply.header('cache-control', 'no-store').type('text/event-stream').send(channel);
}

async function* textOf<Event extends { id: string; type: string }>(events: AsyncGenerator<Event>) {
  for await (const event of events) {
    yield `id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
  }
}

/** What `run` reports while it works, and then what it resolves with, as one sequence. */
export async function* eventsWhile<Event extends object>(
  run: (report: (event: Event) => void) => Promise<Event>,
): AsyncGenerator<Event> {
  const channel = new PassThrough({ objectMode: true, highWaterMark: Number.MAX_SAFE_INTEGER });
  const report = (event: Event): void => {
    channel.write(event);
  };
  const result = run(report).finally(() => channel.end());
  // Thrown below, once what was reported before it has been read.
  result.catch(() => undefined);
  yield* channel as AsyncIterable<Event>;
  yield await result;
}

function lineOf(event: object): string {
  return `${JSON.stringify(event)}\n`;
}
