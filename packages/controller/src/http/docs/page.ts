import { createHash } from 'node:crypto';
import type { OpenApiDocument, OperationObject } from '../openapi/document.ts';
import { exampleCall } from './example-call.ts';
import { fieldsTable, row, table, typeOf } from './schema.ts';
import { SCRIPT } from './search.ts';
import { STYLE } from './style.ts';
import { escapeHtml, inline, paragraphs } from './text.ts';

/** Allows the page's own style sheet and search, and nothing else: no other script, no request, no font, no picture. */
export const contentSecurityPolicy = [
  "default-src 'none'",
  `style-src '${digestOf(STYLE)}'`,
  `script-src '${digestOf(SCRIPT)}'`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

function digestOf(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}

/** Renders the API document as one page, which needs nothing else. Only its search is a script. A saved copy works too. */
export function docsPage(document: OpenApiDocument): string {
  const { info, tags, components } = document;
  const all = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  const parts = tags.map(({ name, description }) => {
    return { name, description, routes: all.filter(({ operation }) => operation.tags.includes(name)) };
  });
  const schemas = Object.entries(components.schemas);
  const links = parts.map(
    ({ name, routes }) => `<h2>${escapeHtml(name)}</h2>${routes.map(({ operation }) => linkTo(operation)).join('')}`,
  );
  const sections = parts.map(
    ({ name, description, routes }) =>
      `<section><h2>${escapeHtml(name)}</h2>${paragraphs(description)}${routes.map((route) => routeOf(route, document)).join('')}</section>`,
  );
  const types = schemas.map(
    ([name, schema]) =>
      `<details id="schema-${escapeHtml(name)}" open><summary><code>${escapeHtml(name)}</code></summary>` +
      `<div>${typeof schema['description'] === 'string' ? paragraphs(schema['description']) : ''}${fieldsTable(schema) || `<p>${typeOf(schema)}</p>`}</div></details>`,
  );
  return (
    `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${escapeHtml(info.title)} API</title>` +
    `<meta name="viewport" content="width=device-width, initial-scale=1"><style>${STYLE}</style></head><body>` +
    `<nav><b>${escapeHtml(info.title)} ${escapeHtml(info.version)}</b>${SEARCH_FIELD}${links.join('')}<h2><a href="#schemas">Types</a></h2></nav>` +
    `<main><h1>${escapeHtml(info.title)} API</h1><p>${INTRO}</p>${sections.join('')}` +
    `<section><h2 id="schemas">Types</h2><p><b>*</b> marks a field that is always present.</p>${types.join('')}</section></main><script type="module">${SCRIPT}</script></body></html>`
  );
}

interface Route {
  path: string;
  method: string;
  operation: OperationObject;
}

const SEARCH_FIELD =
  '<input type="search" placeholder="Search operations and fields" aria-label="Search" autofocus><output></output>';

const INTRO =
  'Bodies are JSON unless stated otherwise. Over TCP every request except <code>GET /healthz</code> needs a token: ' +
  '<code>Authorization: Bearer …</code>. Every reply has an <code>x-request-id</code>: the id of the request, if it had one. ' +
  'The same document for programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).';

function linkTo({ operationId, summary }: OperationObject): string {
  return `<a href="#${escapeHtml(operationId)}" title="${escapeHtml(summary)}">${escapeHtml(operationId)}</a>`;
}

function routeOf({ path, method, operation }: Route, { components }: OpenApiDocument): string {
  const { operationId, summary, description } = operation;
  return (
    `<details id="${escapeHtml(operationId)}"><summary><span class="method ${escapeHtml(method)}">` +
    `${escapeHtml(method.toUpperCase())}</span><code>${escapeHtml(path)}</code><span>${inline(summary)}</span>` +
    `<span class="dim">${escapeHtml(operationId)}</span></summary><div>` +
    `${description === undefined ? '' : paragraphs(description)}${parametersOf(operation)}${bodyOf(operation, components)}` +
    `<h4>Example</h4><pre>${escapeHtml(exampleCall(method, path, operation))}</pre>${repliesOf(operation, components.responses)}</div></details>`
  );
}

function parametersOf({ parameters = [] }: OperationObject): string {
  // Parameters of every route are named at the top of the page.
  const own = parameters.flatMap((parameter) => ('$ref' in parameter ? [] : [parameter]));
  if (own.length === 0) return '';
  const rows = own.map(({ name, schema, required, description = '', in: where }) => {
    return row(name, schema, required, `${description}${where === 'query' ? '' : ` (${where})`}`);
  });
  return `<h4>Parameters</h4>${table(rows)}`;
}

function bodyOf({ requestBody }: OperationObject, { schemas }: OpenApiDocument['components']): string {
  if (requestBody === undefined) return '';
  const said = Object.entries(requestBody.content).map(
    ([mediaType, content]) => contentOf(mediaType, content) + bodyFields(content, schemas),
  );
  const optional = requestBody.required ? '' : ' <small>optional</small>';
  return `<h4>Body${optional}</h4>${paragraphs(requestBody.description ?? '')}${said.join('')}`;
}

/** The fields of a body, here too: to call an operation nobody has to look up its type. */
function bodyFields({ schema }: Record<string, unknown>, schemas: OpenApiDocument['components']['schemas']): string {
  const { $ref: ref } = (schema ?? {}) as { $ref?: string };
  const named = ref === undefined ? undefined : schemas[ref.split('/').at(-1) ?? ''];
  return named === undefined ? '' : fieldsTable(named);
}

function contentOf(mediaType: string, content: Record<string, unknown>): string {
  const item = content['x-itemSchema'];
  const schema = (item ?? content['schema']) as Record<string, unknown> | undefined;
  const type = schema === undefined ? '' : `${item === undefined ? '' : 'a stream of '}${typeOf(schema)}`;
  return `<p>${type} <small>${escapeHtml(mediaType)}</small></p>`;
}

function exampleOf({ example }: Record<string, unknown>): string {
  if (example === undefined) return '';
  const text = typeof example === 'string' ? example : JSON.stringify(example, null, 2);
  return `<pre>${escapeHtml(text)}</pre>`;
}

function repliesOf(operation: OperationObject, shared: OpenApiDocument['components']['responses']): string {
  const rows = Object.entries(operation.responses).map(([status, response]) => {
    const found = '$ref' in response ? shared[response.$ref.split('/').at(-1) ?? ''] : response;
    const { description, content = {} } = found ?? { description: '' };
    const isError = Number(status) >= 400;
    const bodies = isError
      ? []
      : Object.entries(content).map(([mediaType, one]) => contentOf(mediaType, one) + exampleOf(one));
    return `<tr><th>${escapeHtml(status)}</th><td>${paragraphs(description)}${bodies.join('')}</td></tr>`;
  });
  return `<h4>Replies</h4>${table(rows)}`;
}
