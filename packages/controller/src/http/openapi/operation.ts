import type { ErrorCode } from '@forkd/api';
import { NDJSON_MEDIA_TYPE } from '@forkd/api';
import type { TSchema } from 'typebox';

import type { tags } from './tags.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** How the API document tells of the route. What the route takes stands in its schema. */
    operation?: Operation;
  }
}

/** What a route is for and what it answers, beside what it takes. */
export interface Operation {
  /** Unique; what generated clients call it. */
  id: string;
  tag: keyof typeof tags;
  /** One sentence. */
  summary: string;
  replies: Readonly<Record<number, Reply>>;
  /** Of the registry, beside those that any route may answer with. */
  errors: readonly ErrorCode[];
  more: Readonly<MoreOfOperation>;
}

interface MoreOfOperation {
  description?: string;
  /** Answers whoever asks. */
  open?: true;
  /** Takes the header `Idempotency-Key`. */
  idempotent?: true;
  /** Takes the header `Last-Event-ID`. */
  resumable?: true;
  /** The body is bytes; what they are. */
  rawBody?: string;
  /** Other fields of the bodies of errors, by their code. */
  details?: Readonly<Partial<Record<ErrorCode, TSchema>>>;
}

/** A reply of success: its body, if it has any. */
export interface Reply {
  description: string;
  mediaType?: string;
  /** Of the body, or of each item of a stream. */
  schema?: TSchema;
  isStream?: boolean;
}

type Described = Omit<Operation, 'id' | 'tag' | 'summary' | 'more'> & MoreOfOperation;

/**
 * Describes the routes of one tag. The description goes into the route's `config`, where Fastify does not see it: given
 * to Fastify as a response schema it would be what replies are written by, and fields that it does not name would vanish.
 */
export function operationsOf(tag: Operation['tag']) {
  return (id: string, summary: string, { replies, errors, ...more }: Described): { operation: Operation } => ({
    operation: { id, tag, summary, replies, errors, more },
  });
}

export function json(description: string, schema: TSchema): Reply {
  return { description, mediaType: 'application/json', schema };
}

/** One JSON object a line. */
export function lines(description: string, schema: TSchema): Reply {
  return { description, mediaType: NDJSON_MEDIA_TYPE, schema, isStream: true };
}

export function serverSentEvents(description: string, schema: TSchema): Reply {
  return { description, mediaType: 'text/event-stream', schema, isStream: true };
}

/** Of any other media type. */
export function bytes(description: string, mediaType: string): Reply {
  return { description, mediaType };
}

export function nothing(description: string): Reply {
  return { description };
}
