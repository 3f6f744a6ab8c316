import { PassThrough, Readable } from 'node:stream';

import { NDJSON_MEDIA_TYPE } from '@forkd/api';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

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
  const what = `${reply.request.method} ${reply.request.url}`;
  async function* lines(): AsyncGenerator<string> {
    try {
      if (first.done !== true) yield lineOf(first.value);
      for await (const event of events) yield lineOf(event);
    } catch (error) {
      yield lineOf(errorEvent(log, what, error));
    } finally {
      await events.return(undefined);
    }
  }
  return reply.type(NDJSON_MEDIA_TYPE).send(Readable.from(lines()));
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
