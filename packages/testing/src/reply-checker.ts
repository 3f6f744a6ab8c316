import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { REPO } from './paths.ts';

type Json = Record<string, unknown>;

/** The part of the document that describes one reply. */
interface Described {
  /** Schemas by media type, as JSON pointers into the document. */
  mediaTypes: ReadonlyMap<string, { schema: string | null; item: string | null }>;
}

const DOCUMENT = join(REPO, 'docs/reference/openapi.json');
const ID = 'openapi';

/**
 * Compares replies with docs/reference/openapi.json. The status, the media type and each required field must match, and a
 * field that the document does not name is an error. Fails with an error that says which reply is wrong and how.
 */
export class ReplyChecker {
  readonly #document: Json;
  readonly #ajv = new Ajv2020({ strict: false, allErrors: true });
  readonly #routes: { pattern: RegExp; template: string }[];
  readonly #validators = new Map<string, ValidateFunction>();
  /** Statuses with which each operation has been seen to answer, by its operation id. */
  readonly seen = new Map<string, Set<number>>();

  constructor(document: Json = JSON.parse(readFileSync(DOCUMENT, 'utf8')) as Json) {
    this.#document = document;
    this.#ajv.addSchema(closed(document), ID);
    this.#routes = Object.keys(document['paths'] as Json)
      // Fixed paths go before those with parameters, as they do in the router.
      .toSorted((one, other) => one.split('{').length - other.split('{').length)
      .map((template) => ({ template, pattern: new RegExp(`^${template.replaceAll(/\{[a-z]+\}/g, '[^/]*')}$`) }));
  }

  /** All operations of the document. */
  operations(): DescribedOperation[] {
    const paths = Object.entries(this.#document['paths'] as Record<string, Record<string, Json>>);
    return paths.flatMap(([template, methods]) =>
      Object.entries(methods).map(([method, { operationId, responses }]) => {
        const statuses = Object.keys(responses as Json).map(Number);
        return { id: String(operationId), method: method.toUpperCase(), template, statuses };
      }),
    );
  }

  /** Checks a whole reply. `text` is its body. */
  check(asked: Asked, reply: Head, text: string): void {
    const media = this.head(asked, reply);
    if (media === null) return expectThat(text === '', asked, reply, `its body is not empty: ${text.slice(0, 200)}`);
    if (media.schema !== null) this.#validate(asked, reply, media.schema, parse(text, asked, reply));
    if (media.item !== null)
      for (const item of itemsOf(mediaTypeOf(reply), text)) this.item(asked, reply, media.item, item);
  }

  /** Checks the status line and the headers. Returns the pointers for the body, or `null` if there must be no body. */
  head(asked: Asked, reply: Head): { schema: string | null; item: string | null } | null {
    expectThat(reply.headers.get('x-request-id') !== null, asked, reply, 'it has no x-request-id');
    const described = this.#described(asked, reply);
    if (described.mediaTypes.size === 0) return null;
    const mediaType = mediaTypeOf(reply);
    const media = described.mediaTypes.get(mediaType);
    if (media === undefined) throw new Error(`${nameOf(asked, reply)}: the document knows no ${mediaType} of it`);
    return media;
  }

  /** Checks an item of a stream, given as text. */
  item(asked: Asked, reply: Head, pointer: string, text: string): void {
    this.#validate(asked, reply, pointer, parse(text, asked, reply));
  }

  #described(asked: Asked, reply: Head): Described {
    const { template } = this.#routes.find(({ pattern }) => pattern.test(asked.path)) ?? {};
    const operation =
      template === undefined ? undefined : at(this.#document, ['paths', template, asked.method.toLowerCase()]);
    // A request that reached no route is answered with the shape of all errors.
    if (template === undefined || operation === undefined) return errorOnly;
    const steps = ['paths', template, asked.method.toLowerCase(), 'responses', String(reply.status)];
    const given = at(this.#document, steps);
    if (given === undefined) throw new Error(`${nameOf(asked, reply)}: the document does not know this status`);
    this.#note(String(operation['operationId']), reply.status);
    const ref = given['$ref'];
    const where = typeof ref === 'string' ? ref.slice(2).split('/') : steps;
    const content = at(this.#document, [...where, 'content']) ?? {};
    const pointer = (mediaType: string, word: string) =>
      at(this.#document, [...where, 'content', mediaType, word]) === undefined
        ? null
        : `#/${[...where, 'content', mediaType, word].map(escaped).join('/')}`;
    const mediaTypes = Object.keys(content).map((mediaType) => {
      return [mediaType, { schema: pointer(mediaType, 'schema'), item: pointer(mediaType, 'x-itemSchema') }] as const;
    });
    return { mediaTypes: new Map(mediaTypes) };
  }

  #note(operation: string, status: number): void {
    const statuses = this.seen.get(operation) ?? new Set();
    this.seen.set(operation, statuses.add(status));
  }

  #validate(asked: Asked, reply: Head, pointer: string, value: unknown): void {
    let validator = this.#validators.get(pointer);
    if (validator === undefined) {
      validator = this.#ajv.compile({ $ref: `${ID}${pointer}` });
      this.#validators.set(pointer, validator);
    }
    if (validator(value)) return;
    const why = this.#ajv.errorsText(validator.errors, { dataVar: 'body' });
    throw new Error(`${nameOf(asked, reply)} is not as the document says: ${why}; it is ${JSON.stringify(value)}`);
  }
}

export interface DescribedOperation {
  id: string;
  method: string;
  /** Path with the names of its parameters in braces. */
  template: string;
  statuses: number[];
}

export interface Asked {
  method: string;
  /** Path without its query. */
  path: string;
}

/** The part of a reply that comes before its body. */
export interface Head {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
}

const errorOnly: Described = {
  mediaTypes: new Map([['application/json', { schema: '#/components/schemas/ErrorBody', item: null }]]),
};

/** The document with its types closed, so that a field it does not name is an error in the reply. */
function closed(document: Json): Json {
  const copy = structuredClone(document);
  const { schemas } = copy['components'] as { schemas: Json };
  close(schemas);
  return copy;
}

function close(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  const schema = value as Json;
  if (schema['type'] === 'object' && 'properties' in schema) schema['additionalProperties'] ??= false;
  for (const inner of Object.values(schema)) close(inner);
}

/** The items of a stream that has ended. */
function itemsOf(mediaType: string, text: string): string[] {
  const lines = text.split('\n').filter((line) => line !== '');
  if (mediaType !== 'text/event-stream') return lines;
  return lines.filter((line) => line.startsWith('data: ')).map((line) => line.slice('data: '.length));
}

function mediaTypeOf({ headers }: Head): string {
  return headers.get('content-type')?.split(';')[0]?.trim() ?? 'none';
}

function parse(text: string, asked: Asked, reply: Head): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`${nameOf(asked, reply)} is not JSON: ${text.slice(0, 200)}`, { cause });
  }
}

function expectThat(holds: boolean, asked: Asked, reply: Head, why: string): void {
  if (!holds) throw new Error(`${nameOf(asked, reply)}: ${why}`);
}

function nameOf({ method, path: asked }: Asked, { status }: Head): string {
  return `the reply ${status} to ${method} ${asked}`;
}

function at(document: Json, steps: readonly string[]): Json | undefined {
  return steps.reduce<Json | undefined>((value, step) => value?.[step] as Json | undefined, document);
}

function escaped(step: string): string {
  return encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'));
}
