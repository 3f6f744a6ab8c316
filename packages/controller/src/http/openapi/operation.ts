import { type ErrorCode, NDJSON_MEDIA_TYPE } from '@forkd/api';
import type { TSchema } from 'typebox';
import { exampleItemsOf, exampleOf } from './examples.ts';
import type { tags } from './tags.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Description of the route for the API document. Its parameters and body are described by its schema. */
    operation?: Operation;
  }
}

/** Purpose, replies and errors of a route. */
export interface Operation {
  /** Unique name, which generated clients use. */
  id: string;
  tag: keyof typeof tags;
  /** The purpose in a single sentence. */
  summary: string;
  replies: Readonly<Record<number, Reply>>;
  /** Error codes, besides those that every route may reply with. */
  errors: readonly ErrorCode[];
  more: Readonly<MoreOfOperation>;
}

interface MoreOfOperation {
  description?: string;
  /** Answers without a token. */
  open?: true;
  /** Takes the header `Idempotency-Key`. */
  idempotent?: true;
  /** Takes the header `Last-Event-ID`. */
  resumable?: true;
  /** Allows a longer JSON body: a command with its input, or a program. */
  largeBody?: true;
  /** Description of a body that is raw bytes. */
  rawBody?: string;
  /** Additional fields of error bodies, by error code. */
  details?: Readonly<Partial<Record<ErrorCode, TSchema>>>;
}

/** A successful reply, and its body if it has one. */
export interface Reply {
  description: string;
  mediaType?: string;
  /** Schema of the body, or of each item of a stream. */
  schema?: TSchema;
  /** Example of the body; text unless the body is JSON. */
  example?: unknown;
  isStream?: boolean;
}

type Described = Omit<Operation, 'id' | 'tag' | 'summary' | 'more'> & MoreOfOperation;

/**
 * Describes the routes of one tag. The description goes into the route's `config`, where Fastify does not see it. As a
 * response schema, it would make Fastify drop the fields of a reply that it does not name.
 */
export function operationsOf(tag: Operation['tag']) {
  return (id: string, summary: string, { replies, errors, ...more }: Described): { operation: Operation } => ({
    operation: { id, tag, summary, replies, errors, more },
  });
}

/** A JSON body. `changes` are fields in which the example of this reply differs from that of its schema. */
export function json(description: string, schema: TSchema, changes?: object): Reply {
  const own = exampleOf(schema);
  const example = changes === undefined ? own : { ...(own as object), ...changes };
  return { description, mediaType: 'application/json', schema, example };
}

/** A stream with one JSON object per line. */
export function lines(description: string, schema: TSchema): Reply {
  const example = exampleItemsOf(schema).map((item) => `${JSON.stringify(item)}\n`);
  return { description, mediaType: NDJSON_MEDIA_TYPE, schema, isStream: true, example: example.join('') };
}

export function serverSentEvents(description: string, schema: TSchema): Reply {
  const example = exampleItemsOf(schema).map((item) => `data: ${JSON.stringify(item)}\n\n`);
  return { description, mediaType: 'text/event-stream', schema, isStream: true, example: example.join('') };
}

/** A body of any other media type. */
export function bytes(description: string, mediaType: string, example: string): Reply {
  return { description, mediaType, example };
}

export function nothing(description: string): Reply {
  return { description };
}
