// Proves the shape of every error, the framework's own among them, and how requests become calls: a real server on a real
// unix socket and port, over services that only record what they are asked.

import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { ApiError } from '@forkd/api';
import { expect, test } from 'vitest';
import { limits } from '../src/limits.ts';
import { UsageError } from '../src/usage-error.ts';
import { expectError, HttpLab } from './http-support.ts';

const missing = (id: string) => new ApiError('not_found_sandbox', `There is no sandbox '${id}'.`);

test('healthz is exactly that, and the socket is the owner’s alone', async () => {
  const lab = await HttpLab.serve();
  expect((await lab.ask('GET', '/healthz', { tcp: true })).text).toBe('{"ok":true}');
  expect(JSON.parse((await lab.ask('GET', '/version')).text)).toMatchObject({ api: 'v1' });
  expect((await stat(lab.socket)).mode & 0o777).toBe(0o600);
});

test('what no handler sees is refused in the same shape', async () => {
  const lab = await HttpLab.serve();
  expectError(await lab.ask('GET', '/nowhere'), 404, 'not_found');
  const wrongMethod = await lab.ask('PUT', '/v1/sandboxes/sb-1');
  expect(expectError(wrongMethod, 405, 'method_not_allowed').hint).toContain('DELETE');
  expect(wrongMethod.headers['allow']).toContain('GET');
  expectError(await lab.ask('GET', '/%zz'), 400, 'bad_request');
  expectError(await lab.ask('POST', '/v1/sandboxes', { body: '{torn' }), 400, 'bad_request');
  expectError(await lab.ask('POST', '/v1/sandboxes', { body: '{"__proto__":{}}' }), 400, 'bad_request');
  expectError(
    await lab.ask('POST', '/v1/sandboxes', { body: '{}', headers: { 'content-type': 'text/plain' } }),
    415,
    'bad_media_type',
  );
  expectError(await lab.ask('POST', '/v1/sandboxes', { body: `"${'x'.repeat(9_000_000)}"` }), 413, 'too_large');
  expectError(await lab.ask('POST', '/v1/sandboxes'), 400, 'bad_request');
  expect(lab.calls).toEqual([]);
});

test.each([
  ['bytes that are no HTTP', 'GARBAGE\r\n\r\n', 400, 'bad_request'],
  ['a method that there is not', 'BREW /version HTTP/1.1\r\nhost: a\r\n\r\n', 400, 'bad_request'],
  ['no Host', 'GET /version HTTP/1.1\r\nconnection: close\r\n\r\n', 400, 'bad_request'],
  ['a tunnel', 'CONNECT other:443 HTTP/1.1\r\nhost: a\r\n\r\n', 405, 'method_not_allowed'],
  [
    'an expectation that nobody knows',
    'GET /nowhere HTTP/1.1\r\nhost: localhost\r\nexpect: the-best\r\nconnection: close\r\n\r\n',
    404,
    'not_found',
  ],
  ['two lengths', 'POST /v1/sandboxes HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\n', 400, 'bad_request'],
  [
    'a chunk without a length',
    'POST /v1/sandboxes HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n',
    400,
    'bad_request',
  ],
])('%s: the answer is JSON too', async (_what, bytes, status, code) => {
  const lab = await HttpLab.serve();
  const text = await new Promise<string>((resolve, reject) => {
    const raw = connect(lab.port, '127.0.0.1', () => raw.write(bytes));
    let answer = '';
    raw.on('data', (chunk) => (answer += chunk.toString()));
    raw.on('close', () => resolve(answer));
    raw.on('error', reject);
  });
  const [head = '', body = ''] = text.split('\r\n\r\n');
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  expect(head).toMatch(/^x-request-id: \S+$/im);
  expectError({ status, headers: {}, text: body }, status, code);
});

test('each field is checked, and named with its value', async () => {
  const lab = await HttpLab.serve();
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
    ['POST', '/v1/snapshots/a/compact', { to: 'a b' }, 'bad_tag', 'to: "a b" is not a tag'],
    ['POST', '/v1/sandboxes/sb-1/rename', { from: '/a', to: 'a\u0000' }, 'bad_request', 'to must match pattern'],
    ['POST', '/v1/sandboxes', { snapshot_tag: 'x', name: 'a b' }, 'bad_request', 'name must match pattern'],
    ['DELETE', '/v1/snapshots/py?cascade=perhaps', undefined, 'bad_request', 'cascade must be boolean'],
    ['GET', '/v1/sandboxes/sb-1/dir', undefined, 'bad_request', 'path is missing'],
  ];
  for (const [method, path, body, code, sentence] of cases) {
    const reply = await lab.ask(method, path, body === undefined ? {} : { body: JSON.stringify(body) });
    expect(expectError(reply, 400, code).error).toContain(sentence);
  }
  expect(lab.calls).toEqual([]);
});

test('a request becomes one call, with defaults filled in and unknown fields passed over', async () => {
  const lab = await HttpLab.serve({
    fork: () => [],
    branch: () => ({ tag: 't', status: 'writing' }),
  });
  expect((await lab.ask('POST', '/v1/sandboxes', { body: '{"snapshot_tag":"py","novel":1}' })).status).toBe(201);
  expect(lab.calls[0]).toMatchObject(['fork', { snapshot_tag: 'py', n: 1, per_child_netns: false }, null]);
  // A body is optional where all in it is, with and without the header.
  expect((await lab.ask('POST', '/v1/sandboxes/sb-1/branch')).status).toBe(202);
  expect((await lab.ask('POST', '/v1/sandboxes/sb-1/branch', { body: '' })).status).toBe(202);
  expect(lab.calls[2]).toMatchObject(['branch', 'sb-1', { wait: true }, null]);
  expect((await lab.ask('DELETE', '/v1/snapshots/py?cascade=true')).status).toBe(204);
  expect(lab.calls[3]).toEqual(['removeSnapshot', 'py', { cascade: true }]);
});

test('a field that a route does not know comes back as a warning, or is refused if the caller is strict', async () => {
  const lab = await HttpLab.serve({
    fork: () => [{ id: 'sb-1', warnings: ['Its own.'] }, { id: 'sb-2' }],
    getSandbox: () => ({ id: 'sb-1' }),
  });
  const body = '{"snapshot_tag":"py","ttl":5}';
  const warning = "Field 'ttl' is unknown and has no effect.";
  expect(JSON.parse((await lab.ask('POST', '/v1/sandboxes', { body })).text)).toEqual([
    { id: 'sb-1', warnings: ['Its own.', warning] },
    { id: 'sb-2', warnings: [warning] },
  ]);
  const headers = { prefer: 'respond-async, handling=strict' };
  const refused = expectError(await lab.ask('POST', '/v1/sandboxes', { body, headers }), 400, 'bad_request');
  expect(refused.error).toContain("'ttl'");
  const query = '/v1/sandboxes?stat=paused';
  expect(expectError(await lab.ask('GET', query, { headers }), 400, 'bad_request').error).toContain("'stat'");
  expect(JSON.parse((await lab.ask('GET', '/v1/sandboxes/sb-1')).text)).toEqual({ id: 'sb-1' });
  const many = JSON.stringify({
    snapshot_tag: 'py',
    ...Object.fromEntries('abcdefghijk'.split('').map((x) => [x, 1])),
  });
  const [first] = JSON.parse((await lab.ask('POST', '/v1/sandboxes', { body: many })).text) as { warnings: string[] }[];
  expect(first?.warnings).toHaveLength(1 + limits.fieldWarningsMax);
});

test('errors of services keep their status, code and details; a bug says nothing of its inside but its message', async () => {
  const lab = await HttpLab.serve({
    getSandbox: (id: string) => {
      throw missing(id);
    },
    exec: () => {
      throw new ApiError('command_timeout', 'It took too long.', { details: { stdout: 'so far', stderr: '' } });
    },
    getMemory: () => {
      throw new TypeError('x is undefined');
    },
  });
  expect(expectError(await lab.ask('GET', '/v1/sandboxes/sb-9'), 404, 'not_found_sandbox').error).toContain("'sb-9'");
  const late = expectError(
    await lab.ask('POST', '/v1/sandboxes/sb-9/exec', { body: '{"args":["a"]}' }),
    504,
    'command_timeout',
  );
  expect(late).toMatchObject({ stdout: 'so far', stderr: '' });
  const bug = expectError(await lab.ask('GET', '/v1/sandboxes/sb-9/memory'), 500, 'internal');
  expect(JSON.stringify(bug)).not.toContain('at ');
});

test('only the socket may end the controller', async () => {
  const lab = await HttpLab.serve({ shutDown: () => ({ pid: 1, sandboxes_ended: 0 }) });
  expectError(await lab.ask('POST', '/v1/shutdown', { tcp: true }), 403, 'socket_only');
  expect(lab.calls).toEqual([]);
  expect((await lab.ask('POST', '/v1/shutdown?sandboxes=kill')).status).toBe(200);
  expect(lab.calls).toEqual([['shutDown', true]]);
});

test('a connection that never asks anything does not hold up the end', { timeout: 10_000 }, async () => {
  const lab = await HttpLab.serve();
  const silent = connect(lab.socket);
  await once(silent, 'connect');
  const ended = once(silent.resume(), 'close');
  await lab.servers.close();
  expect(await ended).toBeDefined();
});

test('a port that cannot be had is the caller’s to choose anew', async () => {
  const lab = await HttpLab.serve();
  const again = async (host: string) => {
    const socket = `${lab.socket}-2`;
    await lab.servers.listen({ socket, bind: { host, port: lab.port } });
  };
  await expect(again('127.0.0.1')).rejects.toThrow(`--bind 127.0.0.1:${lab.port} cannot be served: another program`);
});

test('an address that this host does not have is a mistake, not a fault', async () => {
  const lab = await HttpLab.serve();
  const bind = { host: '192.0.2.1', port: lab.port };
  const listening = lab.servers.listen({ socket: `${lab.socket}-2`, bind });
  await expect(listening).rejects.toThrow(UsageError);
});

test('a name is served on its addresses', async () => {
  const lab = await HttpLab.serve();
  await lab.servers.listen({ socket: `${lab.socket}-2`, bind: { host: 'localhost', port: lab.port + 1 } });
  const reply = await fetch(`http://127.0.0.1:${lab.port + 1}/healthz`);
  expect(await reply.json()).toEqual({ ok: true });
});
