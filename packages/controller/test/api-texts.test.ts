// Proves that the API document explains itself: each field and parameter has a description, and each operation has an example
// request and an example reply that are valid by the document's own schemas.
import { ReplyChecker } from '@forkd/testing';
import { expect, test } from 'vitest';
import type { JsonSchema } from '../src/http/openapi/components.ts';
import type { OpenApiDocument, OperationObject } from '../src/http/openapi/document.ts';
import { HttpLab } from './http-support.ts';

/** A sentence that starts with a capital, a number or a name in backquotes. */
const sentence = /^[A-Z0-9`][^]*\.$/;

/** A text that opens with one of these words cannot be understood by itself. */
const openers = /^(It|Its|They|Them|Those|These|This|That|He|His|So|Both|Such|Of|As|Who|Whoever|Whose)\b/;

async function served(): Promise<OpenApiDocument> {
  const lab = await HttpLab.serve();
  return JSON.parse((await lab.ask('GET', '/openapi.json')).text);
}

interface Route {
  path: string;
  method: string;
  operation: OperationObject;
}

function routesOf(document: OpenApiDocument): Route[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
}

/** Texts without a full sentence, by the place of each. */
function wrongTexts(texts: readonly [string, unknown][]): [string, unknown][] {
  return texts.filter(([, text]) => typeof text !== 'string' || !sentence.test(text) || openers.test(text));
}

/** The description of each field of a schema, at all depths. A schema that is only referred to has its own turn. */
function fieldTexts(schema: JsonSchema, place: string): [string, unknown][] {
  const fields = Object.entries((schema['properties'] ?? {}) as Record<string, JsonSchema>);
  const parts = [...((schema['anyOf'] ?? []) as JsonSchema[]), schema['items'], schema['additionalProperties']];
  return [
    ...fields.flatMap(([name, field]): [string, unknown][] => [
      [`${place}.${name}`, field['description']],
      ...fieldTexts(field, `${place}.${name}`),
    ]),
    ...parts.flatMap((part, index) =>
      typeof part === 'object' && part !== null ? fieldTexts(part as JsonSchema, `${place}[${index}]`) : [],
    ),
  ];
}

/** The schemas of bodies, each with its place. */
function bodiesOf({ operation }: Route): [string, JsonSchema][] {
  const replies = Object.entries(operation.responses).filter(([status]) => Number(status) < 400);
  const contents = [
    operation.requestBody?.content,
    ...replies.map(([, reply]) => ('content' in reply ? reply.content : undefined)),
  ];
  return contents.flatMap((content) =>
    Object.values(content ?? {}).flatMap((media): [string, JsonSchema][] => {
      const schema = media['schema'] ?? media['x-itemSchema'];
      return schema === undefined ? [] : [[operation.operationId, schema as JsonSchema]];
    }),
  );
}

test('each field, parameter, type and reply has a description that can be understood by itself', async () => {
  const document = await served();
  const types = Object.entries(document.components.schemas);
  const fields = [...types, ...routesOf(document).flatMap(bodiesOf)].flatMap(([name, schema]) =>
    fieldTexts(schema, name),
  );
  expect(fields.length).toBeGreaterThan(200);
  const parameters = routesOf(document).flatMap(({ operation: { operationId, parameters: all = [] } }) =>
    all.flatMap((one): [string, unknown][] => ('$ref' in one ? [] : [[`${operationId} ${one.name}`, one.description]])),
  );
  const replies = routesOf(document).flatMap(({ operation: { operationId, responses } }) =>
    Object.entries(responses).flatMap(([status, reply]): [string, unknown][] =>
      Number(status) < 400 && 'description' in reply ? [[`${operationId} ${status}`, reply.description]] : [],
    ),
  );
  const descriptions = types.map(([name, schema]): [string, unknown] => [name, schema['description']]);
  expect(wrongTexts([...fields, ...parameters, ...replies, ...descriptions])).toEqual([]);
});

test('each operation has a summary that can be understood by itself', async () => {
  const texts = routesOf(await served()).flatMap(({ operation }): [string, unknown][] => [
    [operation.operationId, operation.summary],
    ...(operation.description === undefined
      ? []
      : [[operation.operationId, operation.description] as [string, unknown]]),
  ]);
  expect(wrongTexts(texts)).toEqual([]);
});

test('each operation has an example request that its schemas accept', async () => {
  const document = await served();
  const checker = new ReplyChecker({ ...document });
  const parameters: string[] = [];
  for (const { path, method, operation } of routesOf(document)) {
    const asked = { method: method.toUpperCase(), path };
    const check = (steps: string[], example: unknown) => {
      const pointer = `#/${['paths', path, method, ...steps].map(escaped).join('/')}`;
      checker.item(asked, { status: 0, headers: new Headers() }, pointer, JSON.stringify(example));
    };
    for (const [index, parameter] of (operation.parameters ?? []).entries()) {
      if ('$ref' in parameter || !parameter.required) continue;
      expect([operation.operationId, parameter.name, parameter.example]).not.toContain(undefined);
      check(['parameters', String(index), 'schema'], parameter.example);
      parameters.push(parameter.name);
    }
    for (const [mediaType, media] of Object.entries(operation.requestBody?.content ?? {})) {
      expect([operation.operationId, media['example']]).not.toContain(undefined);
      if (media['schema'] !== undefined) {
        check(['requestBody', 'content', mediaType, 'schema'], media['example']);
      }
    }
  }
  expect(parameters.length).toBeGreaterThan(30);
});

test('each operation has an example of each successful reply, which its schema accepts', async () => {
  const document = await served();
  const checker = new ReplyChecker({ ...document });
  let examples = 0;
  for (const { path, method, operation } of routesOf(document)) {
    for (const [status, reply] of Object.entries(operation.responses)) {
      if (Number(status) >= 400 || !('content' in reply)) continue;
      for (const [mediaType, { example }] of Object.entries(reply.content ?? {})) {
        expect([operation.operationId, status, example]).not.toContain(undefined);
        const headers = new Headers({ 'content-type': mediaType, 'x-request-id': 'r' });
        const text = typeof example === 'string' ? example : JSON.stringify(example);
        checker.check({ method: method.toUpperCase(), path }, { status: Number(status), headers }, text);
        examples += 1;
      }
    }
  }
  expect(examples).toBeGreaterThan(35);
});

function escaped(step: string): string {
  return encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'));
}
