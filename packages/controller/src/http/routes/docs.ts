import type { FastifyInstance } from 'fastify';
import { Type } from 'typebox';

import { contentSecurityPolicy, docsPage } from '../docs/page.ts';
import type { OpenApiDocument } from '../openapi/document.ts';
import { bytes, json, operationsOf } from '../openapi/operation.ts';

/** The API as a document, for programs and for people. `documentOf` is called once all routes are there. */
export function docsRoutes(app: FastifyInstance, documentOf: () => OpenApiDocument): void {
  let page: string | null = null;
  app.get('/openapi.json', { config: described.document }, () => documentOf());
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

const described = {
  document: operation('openapi', 'This document.', {
    replies: { 200: json('OpenAPI 3.1.', Type.Object({}, { additionalProperties: true })) },
    errors: [],
  }),
  page: operation('docs', 'This document as a page for people.', {
    replies: { 200: bytes('A page that needs no network.', 'text/html') },
    errors: [],
  }),
};
