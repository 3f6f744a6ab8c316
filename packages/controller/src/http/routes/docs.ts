import type { FastifyInstance } from 'fastify';
import { Type } from 'typebox';
import { contentSecurityPolicy, docsPage } from '../docs/page.ts';
import type { OpenApiDocument } from '../openapi/document.ts';
import { bytes, json, operationsOf } from '../openapi/operation.ts';

/** Serves the API document for programs and for people. `documentOf` is called after all routes have been added. */
export function docsRoutes(app: FastifyInstance, documentOf: () => OpenApiDocument): void {
  let page: string | null = null;
  let text: string | null = null;
  app.get('/openapi.json', { config: described.document }, (_request, reply) => {
    text ??= JSON.stringify(documentOf());
    return reply.type('application/json; charset=utf-8').send(text);
  });
  app.get('/docs', { config: described.page }, (_request, reply) => {
    page ??= docsPage(documentOf());
    return reply
      .header('content-security-policy', contentSecurityPolicy)
      .header('x-content-type-options', 'nosniff')
      .type('text/html; charset=utf-8')
      .send(page);
  });
}

const operation = operationsOf('host');
const OpenApi = Type.Object({}, { additionalProperties: true, examples: [{ openapi: '3.1.0' }] });

const described = {
  document: operation('openapi', 'Gets this document.', {
    replies: { 200: json('The document, in OpenAPI 3.1.', OpenApi) },
    errors: [],
  }),
  page: operation('docs', 'Gets this document as a web page.', {
    replies: { 200: bytes('A page that loads nothing else.', 'text/html', '<!doctype html>…') },
    errors: [],
  }),
};
