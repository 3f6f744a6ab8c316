// Proves how replies and requests without an end are served: events a line each, raw bodies of any length, callers who
// leave, and a controller that ends. A real server on a real unix socket, over services that only record what they are asked.
import { request as httpRequest } from 'node:http';
import { ApiError } from '@forkd/api';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { limits } from '../src/limits.ts';
import { expectError, HttpLab } from './http-support.ts';

const missing = (id: string) => new ApiError('not_found_sandbox', `There is no sandbox '${id}'.`);

test('events are streamed a line each; an error before the first has its status, one after it is the last line', async () => {
  async function* twoThenFail(id: string) {
    if (id === 'sb-0') throw missing(id);
    yield { type: 'started', id: 'c-1', pid: 7 };
    yield { type: 'stdout', offset: 0, data: 'aGk=' };
    throw missing(id);
  }
  const lab = await HttpLab.serve({
    startAndFollow: twoThenFail,
    buildTemplate: async (_request: unknown, _signal: unknown, report: (stage: string, message: string) => void) => {
      report('image', 'building');
      report('boot', 'booting');
      return { snapshot: { tag: 'py' }, build_ms: 1, boot_ms: 2, warm_ms: 3, snapshot_ms: 4 };
    },
  });
  const events = { headers: { accept: 'application/x-ndjson' }, body: '{"args":["a"]}' };
  const reply = await lab.ask('POST', '/v1/sandboxes/sb-1/commands', events);
  expect([reply.status, reply.headers['content-type']]).toEqual([200, 'application/x-ndjson']);
  const lines = reply.text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(lines.map(({ type }) => type)).toEqual(['started', 'stdout', 'error']);
  expect(lines[2]).toMatchObject({ code: 'not_found_sandbox' });
  expectError(await lab.ask('POST', '/v1/sandboxes/sb-0/commands', events), 404, 'not_found_sandbox');

  const build = { headers: { accept: 'application/x-ndjson' }, body: '{"tag":"py","source":"python"}' };
  const built = (await lab.ask('POST', '/v1/snapshots', build)).text
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
  const lab = await HttpLab.serve({ writeFile: take });
  const path = '/v1/sandboxes/sb-1/files?path=/tmp/big&mode=0755';
  expect((await lab.ask('PUT', path, { body: Buffer.alloc(20_000_000) })).status).toBe(204);
  expect(received).toBe(20_000_000);
  expect((await lab.ask('PUT', path, { body: '{}' })).status).toBe(204);
  expect((await lab.ask('PUT', path)).status).toBe(204);
  expect(received).toBe(20_000_002);
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
  const lab = await HttpLab.serve({
    exec: untilAborted,
    followOutput: forEver,
    ping: slow,
  });

  const leaver = httpRequest({
    socketPath: lab.socket,
    method: 'POST',
    path: '/v1/sandboxes/sb-1/exec',
    headers: { 'content-type': 'application/json' },
  });
  leaver.on('error', () => undefined);
  leaver.end('{"args":["sleep"]}');
  await expect.poll(() => lab.calls.length).toBe(1);
  leaver.destroy();
  await expect.poll(() => left).toBe(1);

  const stream = lab.ask('GET', '/v1/sandboxes/sb-1/commands/c-1/output?follow=true');
  const ping = lab.ask('POST', '/v1/sandboxes/sb-1/ping');
  await expect.poll(() => lab.calls.length).toBe(3);
  const beganMs = performance.now();
  await lab.servers.close();
  expect(performance.now() - beganMs).toBeLessThan(limits.drainMs);
  expect((await ping).status).toBe(200);
  expect((await stream).text).toContain('"shutting_down"');
});

test('a stream whose caller has left is no fault of anybody’s in the log', async () => {
  const logged: { level: number; msg: string }[] = [];
  const log = pino({ level: 'trace' }, { write: (line) => void logged.push(JSON.parse(line)) });
  const untilLeft = (signal: AbortSignal) =>
    new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  async function* forEver(_id: string, cid: string, _query: unknown, signal: AbortSignal) {
    if (cid === 'c-1') yield { type: 'stdout', offset: 0, data: '' };
    // As services do, which put what they were doing before the reason.
    await untilLeft(signal).catch((error: unknown) => {
      throw cid === 'c-1' ? error : new ApiError('internal', 'Reading it: the caller has left.', { cause: error });
    });
  }
  const lab = await HttpLab.serve({ followOutput: forEver }, log);
  const debug = pino.levels.values['debug'];
  for (const cid of ['c-1', 'c-2']) {
    const path = `/v1/sandboxes/sb-1/commands/${cid}/output`;
    const leaver = httpRequest({ socketPath: lab.socket, path: `${path}?follow=true` });
    leaver.on('error', () => undefined);
    leaver.on('response', (response) => response.on('error', () => undefined).resume());
    leaver.end();
    await expect.poll(() => lab.calls.some((call) => call[2] === cid)).toBe(true);
    leaver.destroy();
    await expect.poll(() => logged.filter(({ msg }) => msg.includes(path)).map(({ level }) => level)).toEqual([debug]);
  }
  expect(logged.map(({ level }) => level)).not.toContain(pino.levels.values['error']);
});

test('a key is refused where its reply could not be kept', async () => {
  const lab = await HttpLab.serve();
  const headers = { accept: 'application/x-ndjson', 'idempotency-key': 'k' };
  const body = JSON.stringify({ tag: 'a', source: 'x' });
  expectError(await lab.ask('POST', '/v1/snapshots', { body, headers }), 400, 'bad_request');
  expect(lab.calls).toEqual([]);
});
