import { errorRegistry, limits, type ErrorCode } from '@forkd/api';
import type { FastifyInstance, FastifySchema } from 'fastify';
import type { TSchema } from 'typebox';
import { version } from '../../version.ts';
import { type JsonSchema, componentSchemas, documented } from './components.ts';
import { errorsByStatus } from './errors.ts';
import { exampleOf } from './examples.ts';
import type { Operation, Reply } from './operation.ts';
import { tags } from './tags.ts';

/** A route and its description. */
interface DescribedRoute {
  method: string;
  url: string;
  schema: FastifySchema | undefined;
  operation: Operation;
}

export interface OpenApiDocument {
  openapi: string;
  info: { title: string; version: string; [field: string]: unknown };
  tags: { name: string; description: string }[];
  paths: Record<string, Record<string, OperationObject>>;
  components: {
    schemas: Record<string, JsonSchema>;
    responses: Record<string, ResponseObject>;
    [kind: string]: unknown;
  };
  [field: string]: unknown;
}

export interface OperationObject {
  operationId: string;
  tags: string[];
  summary: string;
  description?: string;
  parameters?: (ParameterObject | Reference)[];
  requestBody?: { required: boolean; description?: string; content: Content };
  responses: Record<string, ResponseObject | Reference>;
  security?: unknown[];
}

/** The body by media type: its schema and its example. */
type Content = Record<string, JsonSchema>;
export interface Reference {
  $ref: string;
}
interface ParameterObject {
  name: string;
  in: string;
  required: boolean;
  description?: string;
  example?: unknown;
  schema: JsonSchema;
}
interface ResponseObject {
  description: string;
  headers?: unknown;
  content?: Content;
}

/** Records every route that is added to `app` from now on. The returned function makes the document of these routes. */
export function describeRoutes(app: FastifyInstance): () => OpenApiDocument {
  const routes: DescribedRoute[] = [];
  app.addHook('onRoute', ({ method, url, schema, config }) => {
    const [only, ...others] = [method].flat().filter((name) => name !== 'HEAD');
    if (only === undefined) return;
    const operation = config?.operation;
    if (operation === undefined || others.length > 0)
      throw new Error(`route ${String(method)} ${url} has no operation`);
    routes.push({ method: only, url, schema, operation });
  });
  let document: OpenApiDocument | null = null;
  return () => (document ??= documentOf(routes));
}

function documentOf(routes: readonly DescribedRoute[]): OpenApiDocument {
  const order = Object.keys(tags);
  const sorted = routes.toSorted((one, other) => order.indexOf(one.operation.tag) - order.indexOf(other.operation.tag));
  const paths: OpenApiDocument['paths'] = {};
  for (const route of sorted) {
    const path = route.url.replaceAll(/:([a-z]+)/g, '{$1}');
    (paths[path] ??= {})[route.method.toLowerCase()] = operationOf(route);
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'forkd',
      version,
      summary: 'Fork and branch running microVMs.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: 'http://127.0.0.1:8889' }],
    tags: Object.entries(tags).map(([name, description]) => ({ name, description })),
    security: [{ bearer: [] }],
    paths,
    components: {
      schemas: componentSchemas(),
      headers: { RequestId: requestIdHeader },
      parameters: { RequestId: requestIdParameter, Prefer: preferParameter },
      responses: onlyErrors(routes),
      securitySchemes: {
        bearer: {
          type: 'http',
          scheme: 'bearer',
          description: 'A token from the file that `--token-file` names. The unix socket needs no token.',
        },
      },
    },
  };
}

const requestIdParameter: ParameterObject = {
  name: 'x-request-id',
  in: 'header',
  required: false,
  description: 'An id that the caller gives the request. It appears in the log of the controller.',
  schema: { type: 'string' },
};

const preferParameter: ParameterObject = {
  name: 'Prefer',
  in: 'header',
  required: false,
  description:
    '`handling=strict`: refuse the request if it has a field that the route does not know. Otherwise such a field has no effect, ' +
    'and each object of a JSON reply names it in `warnings`.',
  schema: { type: 'string' },
};

const requestIdHeader = {
  description: 'The id of the request in the log: the one that the caller sent, or a new one.',
  schema: { type: 'string' },
};

const everyReply = { 'x-request-id': { $ref: '#/components/headers/RequestId' } };

function operationOf({ operation, schema }: DescribedRoute): OperationObject {
  const { id, tag, summary, more } = operation;
  const parameters = [
    ...parametersOf('path', schema?.params),
    ...parametersOf('query', schema?.querystring),
    ...headersOf(operation, schema),
  ];
  const requestBody = requestBodyOf(operation, schema);
  const replies = Object.entries(operation.replies).map(([status, reply]) => [status, replyOf(reply)] as const);
  const errors = [...errorsByStatus(operation, schema)].map(
    ([status, codes]) => [String(status), namedError(codes, operation) ?? errorOf(codes, operation)] as const,
  );
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(more.description !== undefined && { description: more.description }),
    ...(parameters.length > 0 && { parameters }),
    ...(requestBody !== undefined && { requestBody }),
    responses: Object.fromEntries([...replies, ...errors]),
    ...(more.open === true && { security: [] }),
  };
}

function parametersOf(where: 'path' | 'query', schema: unknown): ParameterObject[] {
  const { properties = {}, required = [] } = (schema ?? {}) as { properties?: object; required?: string[] };
  return Object.entries(properties).map(([name, value]) => {
    const { description, ...rest } = documented(value);
    const example = exampleOf(value as TSchema);
    const isRequired = required.includes(name);
    return {
      name,
      in: where,
      required: isRequired,
      ...(typeof description === 'string' && { description }),
      ...(example !== undefined && { example }),
      schema: rest,
    };
  });
}

function headersOf({ more }: Operation, schema: FastifySchema | undefined): (ParameterObject | Reference)[] {
  const header = (name: string, description: string, bounds: JsonSchema): ParameterObject => {
    return { name, in: 'header', required: false, description, schema: { type: 'string', ...bounds } };
  };
  const given: ParameterObject[] = [];
  if (more.idempotent === true) {
    const hours = limits.idempotencyKeepSecs / 3600;
    const text =
      `A request that is repeated with the same key is carried out once. The reply is kept for ${hours} hours, or until ` +
      `${limits.idempotencyRepliesMax} newer replies are kept. A repetition waits while the first request is under way.`;
    given.push(header('Idempotency-Key', text, { minLength: 1, maxLength: limits.idempotencyKeyBytesMax }));
  }
  if (more.resumable === true) {
    given.push(
      header(
        'Last-Event-ID',
        'Same as `after`, which has precedence. Browsers send this header when they reconnect.',
        {},
      ),
    );
  }
  const hasFields = schema?.body !== undefined || schema?.querystring !== undefined;
  const common = hasFields ? ['Prefer', 'RequestId'] : ['RequestId'];
  return [...given, ...common.map((name) => ({ $ref: `#/components/parameters/${name}` }))];
}

function requestBodyOf({ more }: Operation, schema: FastifySchema | undefined): OperationObject['requestBody'] {
  if (more.rawBody !== undefined) {
    return {
      required: false,
      description: more.rawBody,
      content: { 'application/octet-stream': { example: 'hello\n' } },
    };
  }
  if (schema?.body === undefined) return undefined;
  const { required = [] } = schema.body as { required?: string[] };
  const bytesMax = more.largeBody === true ? limits.largeJsonBodyBytesMax : limits.jsonBodyBytesMax;
  const description = `At most ${bytesMax / 1024} KiB.`;
  return {
    required: required.length > 0,
    description,
    content: { 'application/json': { schema: documented(schema.body), example: exampleOf(schema.body as TSchema) } },
  };
}

function replyOf({ description, mediaType, schema, example, isStream = false }: Reply): ResponseObject {
  const headers = everyReply;
  if (mediaType === undefined) return { description, headers };
  if (schema === undefined) return { description, headers, content: { [mediaType]: { example } } };
  // OpenAPI 3.1 has no keyword for the items of a stream. OpenAPI 3.2 has `itemSchema`.
  const word = isStream ? 'x-itemSchema' : 'schema';
  return { description, headers, content: { [mediaType]: { [word]: documented(schema), example } } };
}

/** A status with a single code is the same for all operations, and is written once. */
function onlyErrors(routes: readonly DescribedRoute[]): Record<string, ResponseObject> {
  const all = routes.flatMap(({ operation, schema }) =>
    [...errorsByStatus(operation, schema).values()].flatMap((codes): [string, ResponseObject][] => {
      const [only] = codes;
      return only === undefined || namedError(codes, operation) === null ? [] : [[only, errorOf(codes, operation)]];
    }),
  );
  return Object.fromEntries(all.toSorted(([one], [other]) => one.localeCompare(other)));
}

function namedError([only, ...others]: readonly ErrorCode[], { more }: Operation): Reference | null {
  if (only === undefined || others.length > 0 || more.details?.[only] !== undefined) return null;
  return { $ref: `#/components/responses/${only}` };
}

function errorOf(codes: readonly ErrorCode[], { more }: Operation): ResponseObject {
  const description = codes.map((code) => `\`${code}\`: ${errorRegistry[code].hint}`).join('\n\n');
  const details = codes.flatMap((code): TSchema[] => (more.details?.[code] === undefined ? [] : [more.details[code]]));
  const schema = {
    allOf: [
      { $ref: '#/components/schemas/ErrorBody' },
      { type: 'object', properties: { code: { enum: codes } } },
      ...details.map(documented),
    ],
  };
  return { description, headers: everyReply, content: { 'application/json': { schema } } };
}
