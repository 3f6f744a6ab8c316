/**
 * The spans that a controller sends: to a real HTTP server that takes what OpenTelemetry's exporter sends, of real forks,
 * commands and branches; and that neither a collector that is away nor one that hangs holds the controller up.
 */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { forkOne, shell, TestController, until } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';

const WAIT_MS = 30_000;
const TRACE = '0af7651916cd43dd8448eb211c80319c';
const CALLER = 'b7ad6b7169203331';
const SECRET = 'S3CRET';

interface SentSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  status: { code?: number };
  attributes: { key: string; value: Record<string, unknown> }[];
}

/** The body of `POST /v1/traces`, as far as the tests read it. */
interface Batch {
  resourceSpans: { resource: Pick<SentSpan, 'attributes'>; scopeSpans: { spans: SentSpan[] }[] }[];
}

const batches: Batch[] = [];
let texts = '';
let collector: Server;
let controller: TestController;

beforeAll(async () => {
  collector = createServer((request, response) => {
    let text = '';
    request.on('data', (chunk: Buffer) => (text += chunk.toString()));
    request.on('end', () => {
      if (request.url === '/v1/traces') batches.push(JSON.parse(text) as Batch);
      texts += text;
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    });
  });
  await once(collector.listen(0, '127.0.0.1'), 'listening');
  const { port } = collector.address() as AddressInfo;
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`, OTEL_BSP_SCHEDULE_DELAY: '50' };
  controller = await TestController.start({ template: true, env });
});

afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
  collector.close();
});

function spans(): SentSpan[] {
  return batches
    .flatMap((batch) => batch.resourceSpans)
    .flatMap((one) => one.scopeSpans.flatMap((scope) => scope.spans));
}

/** Waits until a span of this name, for which `isIt` holds, has been sent. */
async function sent(name: string, isIt: (span: SentSpan) => boolean = () => true): Promise<SentSpan> {
  let found: SentSpan | undefined;
  await until(
    `a span ${name}`,
    WAIT_MS,
    async () => (found = spans().find((span) => span.name === name && isIt(span))) !== undefined,
  );
  return found as SentSpan;
}

function attribute(span: Pick<SentSpan, 'attributes'>, key: string): unknown {
  return Object.values(span.attributes.find((one) => one.key === key)?.value ?? {})[0];
}

test('the spans of a fork lie under the request, and the request under its caller', async () => {
  const response = await controller.fetch('/v1/sandboxes', {
    method: 'POST',
    headers: { 'content-type': 'application/json', traceparent: `00-${TRACE}-${CALLER}-01` },
    body: JSON.stringify({ snapshot_tag: 'base' }),
  });
  const [{ id }] = (await response.json()) as [{ id: string }];
  const request = await sent('POST /v1/sandboxes', (span) => span.traceId === TRACE);
  expect(request.parentSpanId).toBe(CALLER);
  expect(attribute(request, 'forkd.request_id')).toBe(response.headers.get('x-request-id'));
  expect(attribute(request, 'http.response.status_code')).toBe(201);
  const fork = await sent('fork', (span) => span.parentSpanId === request.spanId);
  expect([attribute(fork, 'forkd.snapshot'), attribute(fork, 'forkd.sandbox')]).toEqual(['base', id]);
  await sent('restore', (span) => span.parentSpanId === fork.spanId);
  await sent('identify', (span) => span.parentSpanId === fork.spanId);
  const resource = batches[0]?.resourceSpans[0]?.resource;
  expect(resource && attribute(resource, 'service.name')).toBe('forkd-controller');
});

test('a branch span tells its cost, and a command span only where it ran', async () => {
  const { client } = controller;
  const id = await forkOne(client);
  expect(await shell(client, id, `echo ${SECRET}`)).toBe(SECRET);
  await client.branch(id, { tag: 'traced', wait: true });
  const branch = await sent('branch');
  expect(Number(attribute(branch, 'forkd.pause_us'))).toBeGreaterThan(0);
  await sent('publish', (span) => span.parentSpanId === branch.spanId);
  expect(attribute(await sent('exec'), 'forkd.sandbox')).toBe(id);
  expect(texts).not.toContain(SECRET);
});

test('the span of a failed request has its status', async () => {
  const response = await controller.fetch('/v1/sandboxes/sb-none/exec', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ args: ['true'] }),
  });
  expect(response.status).toBe(404);
  const request = await sent(
    'POST /v1/sandboxes/:id/exec',
    (span) => attribute(span, 'http.response.status_code') === 404,
  );
  // The caller's fault is none of the controller's.
  expect(request.status.code ?? 0).toBe(0);
});

test.for(['nobody listens', 'a collector hangs'])('a controller ends in time when %s', async (what) => {
  const silent = createServer(() => {});
  await once(silent.listen(0, '127.0.0.1'), 'listening');
  const { port } = silent.address() as AddressInfo;
  if (what === 'nobody listens') await new Promise((resolve) => silent.close(resolve));
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`, OTEL_EXPORTER_OTLP_TIMEOUT: '500' };
  await using other = await TestController.start({ env });
  expect((await other.fetch('/healthz')).status).toBe(200);
  await other.stop();
  expect(await other.ended()).toBe(0);
  silent.closeAllConnections();
  silent.close();
});
