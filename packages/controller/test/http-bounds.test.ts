// Proves that nobody can hold the API for nothing: raw connections that send too slowly, too much, or not at all, against a
// real server whose times are shortened; and that a caller whose turn it is not is left alone.
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { type Socket, connect } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import type { HttpBounds } from '../src/http/server-factory.ts';
import { limits } from '../src/limits.ts';
import { Metrics } from '../src/observe/metrics.ts';
import { type Answers, HttpLab } from './http-support.ts';
import { silent } from './support.ts';

/** On a busy machine too. */
const soon = { timeout: 20_000 };

const LONG_MS = 3_600_000;
/** Whatever a test is not about takes for ever. */
const patient = {
  ...limits.http,
  headersTimeoutMs: LONG_MS,
  jsonBodyTimeoutMs: LONG_MS,
  stallMs: LONG_MS,
  keepAliveMs: LONG_MS,
};
const SHORT_MS = 800;

const serve = (bounds: Partial<HttpBounds>, answers: Answers = {}, metrics = new Metrics()) =>
  HttpLab.serve(answers, silent, null, { bounds: { ...patient, checkMs: 50, ...bounds }, metrics });

/** A connection, and all that came over it until it was closed. */
async function open(lab: HttpLab): Promise<{ socket: Socket; closed: Promise<string> }> {
  const socket = connect(lab.port, '127.0.0.1');
  onTestFinished(() => void socket.destroy());
  let text = '';
  socket.on('data', (chunk) => (text += chunk.toString()));
  socket.on('error', () => undefined);
  const closed = once(socket, 'close').then(() => text);
  await once(socket, 'connect');
  return { socket, closed };
}

/** The error of a reply that was written by hand or by the framework. */
function errorIn(text: string): { status: number; code: string; request_id: string } {
  const [head = '', body = ''] = text.split('\r\n\r\n');
  const error = JSON.parse(body) as { code: string; request_id: string };
  expect(head).toContain(`x-request-id: ${error.request_id}`);
  return { ...error, status: Number(head.split(' ')[1]) };
}

/** Sends bytes one at a time until the other side closes: each of them shows that the connection is alive. */
async function drip(socket: Socket, bytes: string): Promise<void> {
  for (const byte of bytes) {
    if (socket.destroyed || !socket.writable) return;
    socket.write(byte);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('headers must arrive in time, however busily they trickle', async () => {
  const lab = await serve({ headersTimeoutMs: SHORT_MS });
  const { socket, closed } = await open(lab);
  void drip(socket, `GET /healthz HTTP/1.1\r\nx-slow: ${'a'.repeat(2000)}`);
  expect(errorIn(await closed)).toMatchObject({ status: 408, code: 'request_timeout' });
});

test('so must they on a connection that says nothing at all', async () => {
  const lab = await serve({ headersTimeoutMs: SHORT_MS });
  const { closed } = await open(lab);
  expect(errorIn(await closed)).toMatchObject({ status: 408 });
});

test('a JSON body must arrive in time, however busily it trickles, and nothing is called', async () => {
  const lab = await serve({ jsonBodyTimeoutMs: SHORT_MS });
  const { socket, closed } = await open(lab);
  socket.write(
    'POST /v1/sandboxes HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n',
  );
  void drip(socket, `{"snapshot_tag":"${'a'.repeat(4000)}`);
  expect(errorIn(await closed)).toMatchObject({ status: 408, code: 'request_timeout' });
  expect(lab.calls).toEqual([]);
});

test('a body that says it is too long, and one that turns out to be, are refused', async () => {
  const lab = await serve({});
  const head = 'POST /v1/sandboxes HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n';
  const said = await open(lab);
  said.socket.write(`${head}content-length: 900000000\r\n\r\n{`);
  expect(errorIn(await said.closed)).toMatchObject({ status: 413, code: 'too_large' });
  const unsaid = await open(lab);
  unsaid.socket.write(`${head}transfer-encoding: chunked\r\n\r\n`);
  const chunk = `10000\r\n${' '.repeat(0x1_0000)}\r\n`;
  const sending = setInterval(() => unsaid.socket.writable && unsaid.socket.write(chunk), 1);
  onTestFinished(() => clearInterval(sending));
  expect(await unsaid.closed).toMatch(/^HTTP\/1.1 413 |^$/);
  expect(lab.calls).toEqual([]);
});

test('a body that is a little too long is taken to its end, so that its sender can read why it is refused', async () => {
  const lab = await serve({});
  const { socket, closed } = await open(lab);
  const length = 9_000_000;
  const head =
    'POST /v1/sandboxes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n';
  // As a client does that reads only once all is sent.
  socket.pause();
  const sent = new Promise((resolve) => {
    socket.write(`${head}content-length: ${length}\r\n\r\n${' '.repeat(length)}`, resolve);
  });
  expect(await sent).toBeFalsy();
  socket.resume();
  expect(errorIn(await closed)).toMatchObject({ status: 413, code: 'too_large' });
  expect(lab.calls).toEqual([]);
});

test('headers and URLs have a length', async () => {
  const lab = await serve({});
  const headers = await open(lab);
  headers.socket.write(`GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-long: ${'a'.repeat(17_000)}\r\n\r\n`);
  expect(errorIn(await headers.closed)).toMatchObject({ status: 431, code: 'headers_too_large' });
  const url = await open(lab);
  url.socket.write(`GET /v1/snapshots?${'a'.repeat(9000)} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`);
  expect(errorIn(await url.closed)).toMatchObject({ status: 414, code: 'url_too_long' });
  expect(lab.calls).toEqual([]);
});

test('a connection that is kept alive is not kept for ever', async () => {
  const lab = await serve({ keepAliveMs: SHORT_MS });
  const { socket, closed } = await open(lab);
  socket.write('GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n');
  expect(await closed).toMatch(/^HTTP\/1.1 200 /);
});

test('a streamed body may take longer than it may stand still', async () => {
  const received: string[] = [];
  const take = async (_id: string, _query: unknown, data: AsyncIterable<Uint8Array>) => {
    for await (const chunk of data) received.push(Buffer.from(chunk).toString());
  };
  const lab = await serve({ stallMs: SHORT_MS, jsonBodyTimeoutMs: SHORT_MS }, { writeFile: take });
  const head = 'PUT /v1/sandboxes/sb-1/files?path=/f HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n';
  const slow = await open(lab);
  slow.socket.write(`${head}content-length: 60\r\n\r\n`);
  await drip(slow.socket, 'a'.repeat(60));
  expect(await slow.closed).toMatch(/^HTTP\/1.1 204 /);
  expect(received.join('')).toBe('a'.repeat(60));
  const stalled = await open(lab);
  stalled.socket.write(`${head}content-length: 60\r\n\r\nabc`);
  expect(await stalled.closed).toBe('');
});

test('who reads nothing of a reply is cut off, who waits for one is not', async () => {
  let ended = false;
  async function* flood() {
    try {
      for (;;) yield { type: 'stdout', offset: 0, data: 'x'.repeat(100_000) };
    } finally {
      ended = true;
    }
  }
  const slow = () => new Promise((resolve) => setTimeout(() => resolve({ pong: true }), SHORT_MS * 4));
  const lab = await serve({ stallMs: SHORT_MS }, { followOutput: flood, ping: slow });
  const reader = await open(lab);
  reader.socket.pause();
  reader.socket.write('GET /v1/sandboxes/sb-1/commands/c-1/output HTTP/1.1\r\nhost: localhost\r\n\r\n');
  await expect.poll(() => ended, soon).toBe(true);
  const waiter = await open(lab);
  waiter.socket.write('POST /v1/sandboxes/sb-1/ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n');
  expect(await waiter.closed).toMatch(/^HTTP\/1.1 200 /);
});

test('connections are counted, and those over the limit closed', async () => {
  const metrics = new Metrics();
  let refused = 0;
  metrics.connectionRefused = () => (refused += 1);
  const lab = await serve({ connectionsMax: 3 }, {}, metrics);
  const ask = 'GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n';
  const kept = await Promise.all([open(lab), open(lab), open(lab)]);
  for (const { socket } of kept) {
    socket.write(ask);
    await once(socket, 'data');
  }
  const over = await open(lab);
  expect(await over.closed).toBe('');
  expect(refused).toBe(1);
  kept[0]?.socket.destroy();
  await expect
    .poll(async () => {
      const next = await open(lab);
      next.socket.write(ask.replace('\r\n\r\n', '\r\nconnection: close\r\n\r\n'));
      return next.closed;
    })
    .toMatch(/^HTTP\/1.1 200 /);
});

test('callers who come at once wait for the controller, and none of them is turned away', async () => {
  const lab = await serve({});
  const program = `
    const { connect } = require('node:net');
    const left = new Set(Array.from({ length: 2000 }, () => connect(process.argv[1])));
    const failures = [];
    for (const socket of left) {
      const done = (error) => {
        if (error) failures.push(error.code);
        left.delete(socket);
        if (left.size === 0) { console.log(JSON.stringify(failures)); process.exit(); }
      };
      socket.once('connect', done).once('error', done);
    }`;
  // The event loop of the controller stands still meanwhile, and accepts nobody.
  const { stdout, status } = spawnSync(process.execPath, ['-e', program, lab.socket], { encoding: 'utf8' });
  expect({ failures: JSON.parse(stdout) as unknown, status }).toEqual({ failures: [], status: 0 });
});
