// Proves that the API document is OpenAPI 3.1 which says all that the routes say, that docs/reference is it, that the page
// made of it fetches nothing, and that replies are not written by it.
import { spawn, spawnSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text as textOf } from 'node:stream/consumers';
import { errorRegistry } from '@forkd/api';
import { expect, test } from 'vitest';
import type { OpenApiDocument } from '../src/http/openapi/document.ts';
import { Tokens } from '../src/http/tokens.ts';
import { expectError, HttpLab } from './http-support.ts';
import { scratch, silent } from './support.ts';

const reference = new URL('../../../docs/reference/', import.meta.url);

async function served(): Promise<OpenApiDocument> {
  const lab = await HttpLab.serve();
  return JSON.parse((await lab.ask('GET', '/openapi.json')).text);
}

test('docs/reference/openapi.json is what the controller serves; `node scripts/openapi.mjs` makes it anew', async () => {
  expect(JSON.parse(await readFile(new URL('openapi.json', reference), 'utf8'))).toEqual(await served());
});

test('docs/reference/api.md is made of it; `node scripts/openapi.mjs` makes it anew', async () => {
  const script = new URL('../../../scripts/lib/api-markdown.mjs', import.meta.url);
  const module = (await import(script.href)) as { apiMarkdown: (document: unknown) => string };
  expect(await readFile(new URL('api.md', reference), 'utf8')).toBe(module.apiMarkdown(await served()));
});

test('each operation has a name of its own, a summary, a reply of success, and errors with codes of the registry', async () => {
  const document = await served();
  expect(document.openapi).toBe('3.1.0');
  const operations = Object.values(document.paths).flatMap((methods) => Object.values(methods));
  expect(operations.length).toBeGreaterThan(40);
  const names = operations.map(({ operationId }) => operationId);
  expect(new Set(names).size).toBe(names.length);
  for (const { operationId, summary, responses, security } of operations) {
    expect(summary).toMatch(/^\S.*\.$/);
    const statuses = Object.keys(responses).map(Number);
    expect(statuses.some((status) => status < 300)).toBe(true);
    expect(statuses).toContain(500);
    expect([operationId, statuses.includes(401)]).toEqual([operationId, security === undefined]);
    for (const [status, codes] of codesOf(document, responses)) {
      expect(codes.map((code) => [code, errorRegistry[code]?.status])).toEqual(codes.map((code) => [code, status]));
    }
  }
});

test('every reference leads somewhere, and every type is used', async () => {
  const document = await served();
  const text = JSON.stringify(document);
  const references = new Set([...text.matchAll(/"\$ref":"#\/([^"]+)"/g)].map(([, path = '']) => path));
  for (const path of references) {
    const target = path.split('/').reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], document);
    expect([path, typeof target]).toEqual([path, 'object']);
  }
  for (const name of Object.keys(document.components.schemas)) {
    expect(references).toContain(`components/schemas/${name}`);
  }
});

test('the page refers to nothing outside of itself, and forbids that too', async () => {
  const lab = await HttpLab.serve();
  const { headers, text } = await lab.ask('GET', '/docs');
  expect(headers['content-type']).toBe('text/html; charset=utf-8');
  expect(headers['content-security-policy']).toMatch(
    /^default-src 'none'; style-src 'sha256-[A-Za-z0-9+/]{43}='; script-src 'sha256-[A-Za-z0-9+/]{43}='; base-uri/,
  );
  expect(text.match(/<script/gi)).toHaveLength(1);
  expect(text).not.toMatch(/<(link|img|iframe|object|embed|form|base)\b/i);
  expect(text).not.toMatch(/\b(src|srcset|action|style|on[a-z]+)\s*=/i);
  expect(text).not.toMatch(/@import|url\(/i);
  const targets = [...text.matchAll(/href="([^"]*)"/g)].map(([, target = '']) => target);
  expect(targets.filter((target) => !target.startsWith('#'))).toEqual(['openapi.json']);
  const ids = new Set([...text.matchAll(/ id="([^"]*)"/g)].map(([, id]) => `#${id}`));
  for (const target of targets) if (target.startsWith('#')) expect(ids).toContain(target);
  for (const methods of Object.values((await served()).paths)) {
    for (const { operationId } of Object.values(methods)) expect(ids).toContain(`#${operationId}`);
  }
});

test('the page has a call of each operation that a shell can read, and the words of its fields beside them', async () => {
  const lab = await HttpLab.serve();
  const { text } = await lab.ask('GET', '/docs');
  const calls = [...text.matchAll(/<h4>Example<\/h4><pre>([^<]*)<\/pre>/g)].map(([, call = '']) => unescaped(call));
  const operations = Object.values((await served()).paths).flatMap((methods) => Object.values(methods));
  expect(calls).toHaveLength(operations.length);
  for (const call of calls) {
    // The shell prints its own arguments in place of curl.
    const env = { FORKD_URL: 'http://127.0.0.1:1', FORKD_TOKEN: 't' };
    const { stdout, status } = spawnSync('sh', ['-euc', `curl() { printf '%s\\n' "$@"; }\n${call}`], {
      env,
      encoding: 'utf8',
    });
    expect([call, status]).toEqual([call, 0]);
    expect(stdout).toMatch(/^http:\/\/127\.0\.0\.1:1\/[^{}\s]*$/m);
    const data = stdout.split('\n--data\n')[1];
    if (data !== undefined) expect(typeof JSON.parse(data)).toBe('object');
  }
  const fork = text.slice(text.indexOf('<details id="createSandboxes"'), text.indexOf('<details id="getSandbox"'));
  expect(fork).toMatch(/<th><code>ttl_secs<\/code>.*?<\/td><td>\w+/);
});

test('the search of the page shows what has all of its words, in a real browser', async ({ skip }) => {
  if (spawnSync(BROWSER, ['--version']).status !== 0) skip(`there is no ${BROWSER} on this host`);
  const lab = await HttpLab.serve();
  const all = await entriesOf(lab, '');
  expect(all.hidden).toEqual([]);
  expect(all.shown).toContain('createSandboxes');
  const found = await entriesOf(lab, 'POST ttl_secs');
  expect(found.shown).toContain('createSandboxes');
  expect(found.hidden).toContain('listSandboxes');
  expect(found.shown.length + found.hidden.length).toBe(all.shown.length);
  expect(found.text).toContain(`<output>${found.shown.length} of ${all.shown.length}</output>`);
  expect(found.text).toMatch(/<tr class="hit"><th><code>ttl_secs</);
});

const BROWSER = 'chromium';

/** The operations and types that a browser shows or hides after a search. */
async function entriesOf(lab: HttpLab, query: string) {
  const profile = await scratch();
  const url = `http://127.0.0.1:${lab.port}/docs?q=${encodeURIComponent(query)}`;
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'];
  const args = [...flags, `--user-data-dir=${profile}`, '--dump-dom', url];
  const child = spawn(BROWSER, args, { stdio: ['ignore', 'pipe', 'ignore'], timeout: 100_000 });
  const text = await textOf(child.stdout);
  const entries = [...text.matchAll(/<details id="([^"]+)"([^>]*)>/g)];
  const of = (isHidden: boolean) =>
    entries.filter(([, , attributes = '']) => attributes.includes('hidden') === isHidden).map(([, id]) => id);
  return { text, shown: of(false), hidden: of(true) };
}

function unescaped(html: string): string {
  return html
    .replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&gt;', '>')
    .replaceAll('&lt;', '<')
    .replaceAll('&amp;', '&');
}

test('both are behind the token', async () => {
  const token = 'a-token-of-some-length';
  const file = join(await scratch(), 'tokens');
  await writeFile(file, token, { mode: 0o600 });
  const tokens = await Tokens.open(file, silent);
  const lab = await HttpLab.serve({}, silent, tokens);
  for (const path of ['/openapi.json', '/docs']) {
    expectError(await lab.ask('GET', path, { tcp: true }), 401, 'unauthorized');
    const headers = { authorization: `Bearer ${token}` };
    expect((await lab.ask('GET', path, { tcp: true, headers })).status).toBe(200);
  }
});

test('a field that the document does not name is sent all the same', async () => {
  const lab = await HttpLab.serve({ getSandbox: () => ({ id: 'sb-1', novel: 1 }) });
  expect(JSON.parse((await lab.ask('GET', '/v1/sandboxes/sb-1')).text)).toEqual({ id: 'sb-1', novel: 1 });
});

test('nobody can ask for the head of a stream, which would go on without him; of what ends he can', async () => {
  const lab = await HttpLab.serve();
  for (const path of ['/v1/events', '/v1/sandboxes/sb-1/logs?follow=true', '/v1/sandboxes/sb-1/commands/1/output']) {
    expect((await lab.ask('HEAD', path)).status).toBe(405);
  }
  expect((await lab.ask('HEAD', '/healthz')).status).toBe(200);
  expect(lab.calls).toEqual([]);
});

test('an id that is too long is one that is not there', async () => {
  const lab = await HttpLab.serve({ getSandbox: () => ({}) });
  const id = 'x'.repeat(4000);
  expect((await lab.ask('GET', `/v1/sandboxes/${id}`)).status).toBe(200);
  expect(lab.calls).toEqual([['getSandbox', id]]);
});

type Code = keyof typeof errorRegistry;
interface CodeSchema {
  properties?: { code?: { enum: Code[] } };
}

/** The codes of each status of an operation. */
function codesOf(document: OpenApiDocument, responses: OpenApiDocument['paths'][string][string]['responses']) {
  return Object.entries(responses).flatMap(([status, response]): [number, Code[]][] => {
    if (Number(status) < 400) return [];
    const found = '$ref' in response ? document.components.responses[response.$ref.split('/').at(-1) ?? ''] : response;
    const content = found?.content?.['application/json'] as { schema: { allOf: CodeSchema[] } } | undefined;
    const codes = content?.schema.allOf.flatMap(({ properties }) => properties?.code?.enum ?? []) ?? [];
    return [[Number(status), codes]];
  });
}
