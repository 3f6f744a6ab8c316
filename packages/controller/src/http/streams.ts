import { PassThrough, pipeline, Readable } from 'node:stream';
import { NDJSON_MEDIA_TYPE } from '@forkd/api';
import { turns } from '@forkd/guest';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { LargeReply } from '../large-reply.ts';
import { limits } from '../limits.ts';
import { errorEvent } from './errors.ts';

export function wantsEvents(request: FastifyRequest): boolean {
  return request.headers.accept?.includes(NDJSON_MEDIA_TYPE) ?? false;
}

/**
 * Replies with one JSON object per line. Nothing is sent before the first event exists, so that an earlier failure gets
 * its own status.
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
 * Replies with server-sent events. Those that have an id let a reader who was cut off continue after it. Regular comments
 * show that the connection is alive. A failure is the last event.
 */
export function sendServerSentEvents<Event extends { id?: string; type: string }>(
  reply: FastifyReply,
  log: Logger,
  events: AsyncGenerator<Event>,
): FastifyReply {
  const channel = new PassThrough();
  const beat = setInterval(() => channel.write(':\n\n'), limits.eventBeatMs);
  channel.write(':\n\n');
  const source = Readable.from(textOf(events, (error) => errorEvent(log, reply.request, error)));
  // A reader who has left and a controller that ends look the same here: the stream is over.
  pipeline(source, channel, () => clearInterval(beat));
  return reply.header('cache-control', 'no-store').type('text/event-stream').send(channel);
}

async function* textOf<Event extends { id?: string; type: string }>(
  events: AsyncGenerator<Event>,
  failed: (error: unknown) => { type: string },
): AsyncGenerator<string> {
  try {
    for await (const event of events) yield serverSentEvent(event);
  } catch (error) {
    yield serverSentEvent(failed(error));
  }
}

function serverSentEvent(event: { id?: string; type: string }): string {
  const id = event.id === undefined ? '' : `id: ${event.id}\n`;
  return `${id}event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
}

/** The reports of `run` while it works, followed by its result, as one sequence. */
export async function* eventsWhile<Event extends object>(
  run: (report: (event: Event) => void) => Promise<Event>,
): AsyncGenerator<Event> {
  const channel = new PassThrough({ objectMode: true, highWaterMark: Number.MAX_SAFE_INTEGER });
  const report = (event: Event): void => {
    channel.write(event);
  };
  const result = run(report).finally(() => channel.end());
  // The error is thrown below, after all earlier reports have been read.
  result.catch(() => undefined);
  yield* channel as AsyncIterable<Event>;
  yield await result;
}

/** Sends a reply that may be too long to build at once. A caller who reads too slowly is cut off to free its memory. */
export function sendLarge(reply: FastifyReply, answer: object): FastifyReply {
  if (!(answer instanceof LargeReply)) return reply.send(answer);
  reply.type('application/json');
  if (answer.whole !== undefined) {
    answer.release();
    return reply.send(answer.whole);
  }
  const body = Readable.from(answer.json(), { objectMode: false, highWaterMark: limits.replyPieceBytes });
  const late = setTimeout(() => reply.raw.destroy(), limits.replySendMs);
  const done = (): void => {
    clearTimeout(late);
    answer.release();
  };
  if (reply.raw.closed) done();
  else reply.raw.once('close', done);
  return reply.send(body);
}

/** Replies with an array. A long one is written in parts, between which the event loop goes round. */
export function sendList(reply: FastifyReply, items: readonly object[]): FastifyReply {
  if (items.length <= limits.listPart) return reply.send(items);
  async function* parts(): AsyncGenerator<string> {
    for (let at = 0; at < items.length; at += limits.listPart) {
      const part = JSON.stringify(items.slice(at, at + limits.listPart)).slice(1, -1);
      yield `${at === 0 ? '[' : ','}${part}`;
      await turns.next();
    }
    yield ']';
  }
  return reply.type('application/json; charset=utf-8').send(Readable.from(parts()));
}

function lineOf(event: object): string {
  return `${JSON.stringify(event)}\n`;
}
