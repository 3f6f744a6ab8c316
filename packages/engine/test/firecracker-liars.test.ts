/**
 * VMMs that lie, in the place of a Firecracker: answers without an end, none at all, others than were asked for, and connections that
 * end half-way. Each is told as what it is, within a bound, and the next request on a fresh connection is not the worse for it.
 */

import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { faultIn } from '../src/firecracker/answers.ts';
import { FirecrackerApi } from '../src/firecracker/api.ts';

let dir: string;
let server: Server;
let api: FirecrackerApi;
let answer: (socket: Socket, request: string) => void;
const sockets = new Set<Socket>();

beforeEach(async () => {
  dir = await mkdtemp('/tmp/fk-fc-');
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.setEncoding('latin1').on('data', (request: unknown) => answer(socket, String(request)));
  });
  server.listen(join(dir, 'api.sock'));
  await once(server, 'listening');
  api = new FirecrackerApi(join(dir, 'api.sock'));
});

afterEach(async () => {
  await api.close();
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  server.close();
  await rm(dir, { recursive: true, force: true });
});

const ok = (body: string): string =>
  `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
const RUNNING = '{"id":"x","state":"Running","vmm_version":"1.13.1","app_name":"Firecracker"}';

/** Writes `piece` for as long as somebody listens. */
function flood(socket: Socket, head: string, piece: string): void {
  socket.write(head);
  const more = (): void => {
    while (!socket.destroyed && socket.write(piece));
    if (!socket.destroyed) socket.once('drain', more);
  };
  more();
}

test.each<[string, (socket: Socket) => void, string, RegExp]>([
  [
    'a body without end',
    (to) => flood(to, 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', `400\r\n${'x'.repeat(1024)}\r\n`),
    'vm_gone',
    /too long/,
  ],
  [
    'a body of a gigabyte',
    (to) => flood(to, `HTTP/1.1 200 OK\r\nContent-Length: ${2 ** 30}\r\n\r\n`, 'x'.repeat(65_536)),
    'vm_gone',
    /too long/,
  ],
  [
    'headers without end',
    (to) => flood(to, 'HTTP/1.1 200 OK\r\n', `X-More: ${'x'.repeat(1000)}\r\n`),
    'vm_gone',
    /gave no answer/,
  ],
  ['100 Continue, and again', (to) => flood(to, '', 'HTTP/1.1 100 Continue\r\n\r\n'), 'vm_gone', /gave no answer/],
  ['something that is no HTTP', (to) => to.write('220 mail.example ESMTP\r\n'), 'vm_gone', /gave no answer/],
  [
    'half of a body, and the end',
    (to) => to.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id"'),
    'vm_gone',
    /gave no answer/,
  ],
  ['nothing, and the end', (to) => to.end(), 'vm_gone', /gave no answer/],
  ['no JSON', (to) => to.write(ok('<html>')), 'vmm_refused', /is no JSON/],
  [
    'another state than there are',
    (to) => to.write(ok(RUNNING.replace('Running', 'Dancing'))),
    'vmm_refused',
    /not what it should be/,
  ],
  ['a list', (to) => to.write(ok('[]')), 'vmm_refused', /not what it should be/],
  ['null', (to) => to.write(ok('null')), 'vmm_refused', /not what it should be/],
  [
    'a name of a thousand characters',
    (to) => to.write(ok(RUNNING.replace('"x"', `"${'x'.repeat(1000)}"`))),
    'vmm_refused',
    /not what it should be/,
  ],
  [
    'a refusal without words',
    (to) => to.write('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'),
    'vmm_refused',
    /no reason given/,
  ],
])('%s is no answer, and the next one is understood', async (_, lie, code, message) => {
  answer = lie;
  await expect(api.instance()).rejects.toMatchObject({ code, message: expect.stringMatching(message) as string });
  answer = (socket) => socket.write(ok(RUNNING));
  expect(await api.instance()).toMatchObject({ state: 'Running' });
});

test('a surplus reply is not taken for the reply to the next request', async () => {
  answer = (socket) => socket.write(ok(RUNNING) + ok(RUNNING.replace('Running', 'Paused')));
  await api.instance();
  answer = (socket) => socket.write(ok(RUNNING));
  expect(await api.instance()).toMatchObject({ state: 'Running' });
});

test('a silent process is not waited for after the caller aborts or the process ends', async () => {
  answer = () => undefined;
  const reason = new Error('enough');
  const giving = new AbortController();
  const given = api.pause(giving.signal);
  const waiting = [api.resume(), api.instance()];
  giving.abort(reason);
  await expect(given).rejects.toBe(reason);
  const failed = Promise.all(waiting.map((request) => request.catch((error: unknown) => error)));
  await api.close();
  for (const error of await failed) expect(error).toMatchObject({ code: 'vm_gone' });
});

test('a message of Firecracker is shown as one bounded line without control characters', () => {
  expect(faultIn('{"fault_message":"a\\u001b[31m\\nb\\u202ec"}')).toBe('a [31m b c.');
  expect(faultIn(`{"fault_message":"${'y'.repeat(10_000)}"}`)).toMatch(/^y{500}… \(10000 characters\)$/);
  expect(faultIn('{"fault_message":{"deep":1}}')).toBe('{"fault_message":{"deep":1}}.');
  expect(faultIn('')).toBe('no reason given.');
});
