// Proves the shape of every error, the framework's own among them, and how requests become calls: a real server on a real
// unix socket and port, over services that only record what they are asked.
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { stat } from 'node:fs/promises';

import { ApiError, errorRegistry, isErrorCode } from '@forkd/api';
import { beforeEach, expect, onTestFinished, test } from 'vitest';

import { HttpServers } from '../src/http/servers.ts';
import type { Services } from '../src/http/services.ts';
import type { Options } from '../src/options.ts';
import { scratch, silent } from './support.ts';

interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

let calls: unknown[][];
let socket: string;
let port: number;
let servers: HttpServers;
const missing = (id: string) => new ApiError('not_found_sandbox', `There is no sandbox '${id}'.`);

/** Records its calls; what is not given here answers nothing. */
function stub(more: Record<string, (...args: never[]) => unknown> = {}): Services {
  const group = (name: string) =>
    new Proxy(
      {},
      {
        get:
          (_target, key: string) =>
          (...args: unknown[]) => {
            calls.push([
              `${name}.${key}`,
              ...args.filter((arg) => !(arg instanceof AbortSignal) && typeof arg !== 'function'),
            ]);
            return (more[`${name}.${key}`] as ((...given: unknown[]) => unknown) | undefined)?.(...args);
          },
      },
    );
  return {
    snapshots: group('snapshots'),
    sandboxes: group('sandboxes'),
    guests: group('guests'),
    host: group('host'),
  } as Services;
}

async function serve(services: Services): Promise<void> {
  socket = join(await scratch(), 'c.sock');
  port = 20_000 + Math.floor(Math.random() * 20_000);
  const options = { socket, bind: { host: '127.0.0.1', port } } as Options;
  servers = new HttpServers(services, silent);
  await servers.listen(options);
  onTestFinished(() => servers.close());
}

function ask(
  method: string,
  path: string,
  options: { body?: string | Buffer; headers?: Record<string, string>; tcp?: boolean } = {},
): Promise<Reply> {
  const { body, tcp = false } = options;
  const headers = { ...(typeof body === 'string' && { 'content-type': 'application/json' }), ...options.headers };
  const where = tcp ? { host: '127.0.0.1', port } : { socketPath: socket };
  return new Promise((resolve, reject) => {
    const request = httpRequest({ ...where, method, path, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text: Buffer.concat(chunks).toString(),
        }),
      );
    });
    request.on('error', reject);
    request.end(body);
  });
}

/** Every error has a sentence and a code of the registry, and the registry's status but for 405. */
function expectError(reply: Reply, status: number, code: string): { error: string; code: string; hint: string } {
  const body = JSON.parse(reply.text);
  expect([reply.status, body.code]).toEqual([status, code]);
  expect(body.error.length).toBeGreaterThan(10);
  expect(typeof body.hint).toBe('string');
  expect(isErrorCode(code)).toBe(true);
  if (status !== 405) expect(errorRegistry[code as keyof typeof errorRegistry].status).toBe(status);
  return body;
}

beforeEach(() => {
  calls = [];
});

test('healthz is exactly that, and the socket is the owner’s alone', async () => {
  await serve(stub());
  expect((await ask('GET', '/healthz', { tcp: true })).text).toBe('{"ok":true}');
  expect(JSON.parse((await ask('GET', '/version')).text)).toMatchObject({ api: 'v1' });
  expect((await stat(socket)).mode & 0o777).toBe(0o600);
});

test('what no handler sees is refused in the same shape', async () => {
  await serve(stub());
  expectError(await ask('GET', '/nowhere'), 404, 'not_found');
  const wrongMethod = await ask('PATCH', '/v1/sandboxes/sb-1');
  expect(expectError(wrongMethod, 405, 'not_found').hint).toContain('DELETE');
  expect(wrongMethod.headers['allow']).toContain('GET');
  expectError(await ask('GET', '/%zz'), 400, 'bad_request');
  expectError(await ask('POST', '/v1/sandboxes', { body: '{torn' }), 400, 'bad_request');
  expectError(await ask('POST', '/v1/sandboxes', { body: '{"__proto__":{}}' }), 400, 'bad_request');
  expectError(
    await ask('POST', '/v1/sandboxes', { body: '{}', headers: { 'content-type': 'text/plain' } }),
    415,
    'bad_media_type',
  );
  expectError(await ask('POST', '/v1/sandboxes', { body: `"${'x'.repeat(9_000_000)}"` }), 413, 'too_large');
  expectError(await ask('POST', '/v1/sandboxes'), 400, 'bad_request');
  expect(calls).toEqual([]);
});

test('bytes that are no HTTP are answered in JSON too', async () => {
  await serve(stub());
  const text = await new Promise<string>((resolve, reject) => {
    const raw = connect(port, '127.0.0.1', () => raw.write('GARBAGE\r\n\r\n'));
    let answer = '';
    raw.on('data', (chunk) => (answer += chunk.toString()));
    raw.on('close', () => resolve(answer));
    raw.on('error', reject);
  });
  expect(text).toMatch(/^HTTP\/1.1 400 /);
  expect(JSON.parse(text.split('\r\n\r\n')[1]!)).toMatchObject({ code: 'bad_request' });
});

test('each field is checked, and named with its value', async () => {
  await serve(stub());
  const cases: [string, string, unknown, string, string][] = [
    ['POST', '/v1/sandboxes', { snapshot_tag: 'a b' }, 'bad_tag', 'snapshot_tag: "a b" is not a tag'],
    ['POST', '/v1/sandboxes', { n: 3 }, 'bad_request', 'snapshot_tag is missing'],
    ['POST', '/v1/sandboxes', { snapshot_tag: 'py', n: 0 }, 'bad_request', 'n must be >= 1, it is 0'],
    ['POST', '/v1/sandboxes', { snapshot_tag: 'py', n: 1001 }, 'bad_request', 'n must be <= 1000, it is 1001'],
    ['POST', '/v1/sandboxes', { snapshot_tag: 'py', n: '3' }, 'bad_request', 'n must be integer, it is "3"'],
    ['POST', '/v1/sandboxes/sb-1/exec', { args: [] }, 'bad_request', 'args must not have fewer than 1 items'],
    ['POST', '/v1/sandboxes/sb-1/exec', { args: ['a'], timeout_secs: 0 }, 'bad_request', 'timeout_secs must be > 0'],
    [
      'POST',
      '/v1/sandboxes/sb-1/branch',
      { mode: 'hot' },
      'bad_request',
      'mode must be one of "full", "diff", "live", it is "hot"',
    ],
    ['POST', '/v1/sandboxes/sb-1/branch', { tag: '../x' }, 'bad_tag', 'tag: "../x" is not a tag'],
    ['POST', '/v1/snapshots', { tag: '' }, 'bad_tag', 'tag: "" is not a tag'],
    ['DELETE', '/v1/snapshots/py?cascade=perhaps', undefined, 'bad_request', 'cascade must be boolean'],
    ['GET', '/v1/sandboxes/sb-1/dir', undefined, 'bad_request', 'path is missing'],
  ];
  for (const [method, path, body, code, sentence] of cases) {
    const reply = await ask(method, path, body === undefined ? {} : { body: JSON.stringify(body) });
    expect(expectError(reply, 400, code).error).toContain(sentence);
  }
  expect(calls).toEqual([]);
});

test('a request becomes one call, with defaults filled in and unknown fields passed over', async () => {
  await serve(stub({ 'sandboxes.fork': () => [], 'sandboxes.branch': () => ({ tag: 't', status: 'writing' }) }));
  expect((await ask('POST', '/v1/sandboxes', { body: '{"snapshot_tag":"py","novel":1}' })).status).toBe(201);
  expect(calls[0]).toMatchObject(['sandboxes.fork', { snapshot_tag: 'py', n: 1, per_child_netns: false }]);
  // A body is optional where all in it is, with and without the header.
  expect((await ask('POST', '/v1/sandboxes/sb-1/branch')).status).toBe(202);
  expect((await ask('POST', '/v1/sandboxes/sb-1/branch', { body: '' })).status).toBe(202);
  expect(calls[2]).toMatchObject(['sandboxes.branch', 'sb-1', { wait: true }]);
  expect((await ask('DELETE', '/v1/snapshots/py?cascade=true')).status).toBe(204);
  expect(calls[3]).toEqual(['snapshots.remove', 'py', { cascade: true }]);
});

test('errors of services keep their status, code and details; a bug says nothing of its inside but its message', async () => {
  await serve(
    stub({
      'sandboxes.get': (id: string) => {
        throw missing(id);
      },
      'guests.exec': () => {
        throw new ApiError('command_timeout', 'It took too long.', { details: { stdout: 'so far', stderr: '' } });
      },
      'sandboxes.memory': () => {
        throw new TypeError('x is undefined');
      },
    }),
  );
  expect(expectError(await ask('GET', '/v1/sandboxes/sb-9'), 404, 'not_found_sandbox').error).toContain("'sb-9'");
  const late = expectError(
    await ask('POST', '/v1/sandboxes/sb-9/exec', { body: '{"args":["a"]}' }),
    504,
    'command_timeout',
  );
  expect(late).toMatchObject({ stdout: 'so far', stderr: '' });
  const bug = expectError(await ask('GET', '/v1/sandboxes/sb-9/memory'), 500, 'internal');
  expect(JSON.stringify(bug)).not.toContain('at ');
});

test('events are streamed a line each; an error before the first has its status, one after it is the last line', async () => {
  async function* twoThenFail(id: string) {
    if (id === 'sb-0') throw missing(id);
    yield { type: 'started', id: 'c-1', pid: 7 };
    yield { type: 'stdout', offset: 0, data: 'aGk=' };
    throw missing(id);
  }
  await serve(
    stub({
      'guests.startAndFollow': twoThenFail as never,
      'snapshots.create': (async (
        _request: unknown,
        _signal: unknown,
        report: (stage: string, message: string) => void,
      ) => {
        report('image', 'building');
        report('boot', 'booting');
        return { snapshot: { tag: 'py' }, build_ms: 1, boot_ms: 2, warm_ms: 3, snapshot_ms: 4 };
      }) as never,
    }),
  );
  const events = { headers: { accept: 'application/x-ndjson' }, body: '{"args":["a"]}' };
  const reply = await ask('POST', '/v1/sandboxes/sb-1/commands', events);
  expect([reply.status, reply.headers['content-type']]).toEqual([200, 'application/x-ndjson']);
  const lines = reply.text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(lines.map(({ type }) => type)).toEqual(['started', 'stdout', 'error']);
  expect(lines[2]).toMatchObject({ code: 'not_found_sandbox' });
  expectError(await ask('POST', '/v1/sandboxes/sb-0/commands', events), 404, 'not_found_sandbox');

  const build = { headers: { accept: 'application/x-ndjson' }, body: '{"tag":"py","source":"python"}' };
  const built = (await ask('POST', '/v1/snapshots', build)).text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(built.map(({ type, stage }) => stage ?? type)).toEqual(['image', 'boot', 'result']);
});

test('raw bodies of any kind and length pass through', async () => {
  let received = 0;
  const take = async (_id: string, _query: unknown, data: AsyncIterable<Uint8Array>) => {
    for await (const chunk of data) received += chunk.length;
  };
  await serve(stub({ 'guests.writeFile': take as never }));
  const path = '/v1/sandboxes/sb-1/files?path=/tmp/big&mode=0755';
  expect((await ask('PUT', path, { body: Buffer.alloc(20_000_000) })).status).toBe(204);
  expect(received).toBe(20_000_000);
  expect((await ask('PUT', path, { body: '{}' })).status).toBe(204);
  expect((await ask('PUT', path)).status).toBe(204);
  expect(received).toBe(20_000_002);
});

test('only the socket may end the controller', async () => {
  await serve(stub({ 'host.shutdown': () => ({ pid: 1, sandboxes_ended: 0 }) }));
  expectError(await ask('POST', '/v1/shutdown', { tcp: true }), 403, 'socket_only');
  expect(calls).toEqual([]);
  expect((await ask('POST', '/v1/shutdown?sandboxes=kill')).status).toBe(200);
  expect(calls).toEqual([['host.shutdown', true]]);
});

test('a caller who leaves is noticed, a request under way is waited for, a stream ends when the controller does', async () => {
  let left = 0;
  const untilAborted = (_id: string, _body: unknown, signal: AbortSignal) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        left += 1;
        reject(signal.reason);
      });
    });
  async function* forEver(_id: string, _cid: string, _query: unknown, signal: AbortSignal) {
    yield { type: 'stdout', offset: 0, data: '' };
    await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  }
  const slow = (_id: string, _signal: AbortSignal) =>
    new Promise((resolve) => setTimeout(() => resolve({ pong: true, pid: 1 }), 300));
  await serve(
    stub({ 'guests.exec': untilAborted as never, 'guests.output': forEver as never, 'guests.ping': slow as never }),
  );

  const leaver = httpRequest({
    socketPath: socket,
    method: 'POST',
    path: '/v1/sandboxes/sb-1/exec',
    headers: { 'content-type': 'application/json' },
  });
  leaver.on('error', () => undefined);
  leaver.end('{"args":["sleep"]}');
  await expect.poll(() => calls.length).toBe(1);
  leaver.destroy();
  await expect.poll(() => left).toBe(1);

  const stream = ask('GET', '/v1/sandboxes/sb-1/commands/c-1/output?follow=true');
  const ping = ask('POST', '/v1/sandboxes/sb-1/ping');
  await expect.poll(() => calls.length).toBe(3);
  const beganMs = performance.now();
  await servers.close();
  expect(performance.now() - beganMs).toBeLessThan(3000);
  expect((await ping).status).toBe(200);
  expect((await stream).text).toContain('"shutting_down"');
});
