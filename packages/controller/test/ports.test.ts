/**
 * Proves that a port of a guest can be called by HTTP: any method, bodies as they come, WebSockets; that the guest never gets the caller's
 * right to call the controller; that no web page reaches more through it than its own sandbox; and that a program that answers wrongly
 * harms its caller only.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { stat, writeFile } from 'node:fs/promises';
import {
  type IncomingMessage,
  request as httpRequest,
  type RequestListener,
  createServer,
  type Server,
} from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net';
import { join } from 'node:path';
import type { PortUrl } from '@forkd/api';
import { expect, onTestFinished, test } from 'vitest';
import { PortKey } from '../src/http/ports/keys.ts';
import { Tokens } from '../src/http/tokens.ts';
import { limits } from '../src/limits.ts';
import { type Answers, expectError, HttpLab } from './http-support.ts';
import { scratch, silent } from './support.ts';

const ID = 'sb-3f9a1c0b7e';
const HOST = `8000-${ID}.localhost`;
const AT = `/v1/sandboxes/${ID}/ports/8000`;
const TOKEN = 'a-token-of-sixteen-bytes-or-more';
const WAIT_MS = 10_000;

/** A lab whose guest is a server of this process. */
async function labOf(
  guest: Server,
  tokens: Tokens | null = null,
  portHeadersTimeoutMs = WAIT_MS,
  answers: Answers = {},
): Promise<HttpLab> {
  guest.listen(0, '127.0.0.1');
  await once(guest, 'listening');
  onTestFinished(() => void guest.close());
  const { port } = guest.address() as AddressInfo;
  const connectPort = async () => {
    const socket = connect({ port, allowHalfOpen: true });
    await once(socket, 'connect');
    return socket;
  };
  return HttpLab.serve({ connectPort, ...answers }, silent, tokens, {
    bounds: { ...limits.http, portHeadersTimeoutMs },
  });
}

const served = (listener: RequestListener, tokens: Tokens | null = null, answers: Answers = {}) =>
  labOf(createServer(listener), tokens, WAIT_MS, answers);

/** A guest that answers each connection with these bytes, and what it was sent. */
function answering(bytes: string | Buffer, end = true): Server {
  return createTcpServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => (end ? socket.end(bytes) : socket.write(bytes)));
  }) as unknown as Server;
}

async function withTokens(): Promise<Tokens> {
  const path = join(await scratch(), 'tokens');
  await writeFile(path, TOKEN, { mode: 0o600 });
  return Tokens.open(path, silent);
}

/** The headers that the guest got, by name, and its first line. */
async function seenBy(
  lab: HttpLab,
  headers: Record<string, string>,
  path = `${AT}/`,
): Promise<Record<string, unknown>> {
  const reply = await lab.ask('GET', path, { tcp: true, headers });
  expect([reply.status, reply.text]).toEqual([200, expect.stringMatching(/^\{/)]);
  return JSON.parse(reply.text) as Record<string, unknown>;
}

const mirror: RequestListener = ({ method, url, headers }, response) => {
  response.end(JSON.stringify({ ...headers, line: `${method} ${url}` }));
};

test('any method reaches the program, with its path, its query and its body, and the reply comes back', async () => {
  const lab = await served((request, response) => {
    response.writeHead(207, 'Several', [
      'x-one',
      '1',
      'x-one',
      '2',
      'set-cookie',
      'a=b; Domain=localhost; Path=/',
      'x-seen',
      request.url ?? '',
    ]);
    request.pipe(response);
  });
  for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND', 'REPORT']) {
    const body = Buffer.from(`body of ${method} \0\xff`);
    const headers = { 'content-type': 'not/a(type', 'content-length': String(body.length) };
    const reply = await lab.ask(method, `${AT}/a%zz//b?c=%&d`, { headers, body });
    expect([reply.status, reply.text]).toEqual([207, body.toString()]);
    expect(reply.headers).toMatchObject({ 'x-one': '1, 2', 'set-cookie': ['a=b; Path=/'], 'x-seen': '/a%zz//b?c=%&d' });
    expect(reply.headers['x-request-id']).toBeDefined();
  }
  const byHost = await lab.ask('GET', '/v1/sandboxes', { tcp: true, headers: { host: HOST } });
  expect(byHost.headers['x-seen']).toBe('/v1/sandboxes');
  expect(new Set(lab.calls.map((call) => JSON.stringify(call)))).toEqual(
    new Set([JSON.stringify(['connectPort', ID, 8000])]),
  );
});

test('bodies are passed on as they come, in both directions at once', async () => {
  const lab = await served((request, response) => {
    response.writeHead(200);
    request.on('data', (piece: Buffer) => response.write(`<${piece.toString()}>`));
    request.on('end', () => response.end());
  });
  const asked = httpRequest({ socketPath: lab.socket, method: 'POST', path: `${AT}/` });
  asked.write('one');
  const [reply] = (await once(asked, 'response')) as [IncomingMessage];
  let said = '';
  for (const piece of ['two', 'three', null]) {
    said += String((await once(reply, 'data'))[0]);
    if (piece === null) asked.end();
    else asked.write(piece);
  }
  await once(reply.resume(), 'end');
  expect(said).toBe('<one><two><three>');
});

test('a WebSocket is opened to the program; another upgrade is left out, and its request answered', async () => {
  const guest = createServer(mirror);
  guest.on('upgrade', (request: IncomingMessage, socket: Socket) => {
    if (request.url === '/no') socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno');
    else
      socket.write(
        `HTTP/1.1 101 Hello\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ${request.headers['sec-websocket-key']}\r\n\r\nfirst`,
      );
    socket.on('error', () => undefined).pipe(socket);
  });
  const lab = await labOf(guest);
  const upgrade = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-key': 'k', host: HOST };
  const ask = (path: string, headers: Record<string, string> = upgrade) =>
    httpRequest({ port: lab.port, path, headers: { origin: `http://${HOST}`, ...headers } }).end();
  const [reply, socket, head] = (await once(ask('/yes'), 'upgrade')) as [IncomingMessage, Socket, Buffer];
  expect([reply.statusCode, reply.headers['sec-websocket-accept']]).toEqual([101, 'k']);
  let said = head.toString();
  socket.write('second');
  while (said.length < 'firstsecond'.length) said += String((await once(socket, 'data'))[0]);
  expect(said).toBe('firstsecond');
  socket.destroy();
  const [refused] = (await once(ask('/no'), 'response')) as [IncomingMessage];
  expect(refused.statusCode).toBe(403);
  refused.resume();
  const [foreign] = (await once(ask('/yes', { ...upgrade, origin: 'http://evil.example' }), 'response')) as [
    IncomingMessage,
  ];
  expect(foreign.statusCode).toBe(403);
  foreign.resume();
  // Clients that offer HTTP/2 with each request do not mean a WebSocket.
  const offered = { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c' };
  expect((await lab.ask('POST', `${AT}/x`, { headers: offered, body: '{}' })).text).toContain('POST /x');
  expect((await lab.ask('GET', '/version', { headers: { ...offered, upgrade: 'websocket' } })).status).toBe(200);
});

test('headers of one connection stay on it, and the caller is told apart', async () => {
  const lab = await served(mirror);
  const headers = {
    connection: 'close, x-mine, content-length, host',
    'x-mine': '1',
    te: 'trailers',
    'keep-alive': '1',
    'proxy-authorization': 'x',
    cookie: 'a=b',
  };
  const seen = await seenBy(lab, headers);
  for (const name of ['x-mine', 'te', 'keep-alive', 'proxy-authorization', 'x-request-id'])
    expect(seen[name]).toBeUndefined();
  expect(seen).toMatchObject({
    line: 'GET /',
    host: 'localhost:8000',
    cookie: 'a=b',
    'x-forwarded-for': '127.0.0.1',
    'x-forwarded-prefix': AT,
    'x-forwarded-proto': 'http',
  });
  const byHost = await seenBy(
    lab,
    { host: `${HOST}:${lab.port}`, 'x-forwarded-for': '192.0.2.1', 'x-forwarded-proto': 'https' },
    '/v1/host',
  );
  expect(byHost).toMatchObject({
    line: 'GET /v1/host',
    host: `${HOST}:${lab.port}`,
    'x-forwarded-for': '192.0.2.1, 127.0.0.1',
    'x-forwarded-proto': 'https',
  });
});

test('the right to call the controller is asked for, and never handed to the guest', async () => {
  const own = { authorization: 'Bearer of-the-guest' };
  const forkds = { authorization: `Bearer ${TOKEN}` };
  const open = await served(mirror);
  expect((await seenBy(open, own))['authorization']).toBeUndefined();
  expect(await seenBy(open, { ...own, 'x-forkd-token': 'x' })).toMatchObject(own);
  expect(await seenBy(open, { ...own, host: HOST }, '/')).toMatchObject(own);
  const lab = await served(mirror, await withTokens());
  for (const host of [HOST, 'localhost']) {
    const path = host === HOST ? '/' : `${AT}/`;
    const refused = await lab.ask('GET', path, { tcp: true, headers: { host, ...own } });
    expectError(refused, 401, 'unauthorized');
    const calls = [
      forkds,
      { 'x-forkd-token': TOKEN },
      { ...forkds, 'x-forkd-token': TOKEN },
      { ...own, 'x-forkd-token': TOKEN },
    ];
    const seen = await Promise.all(calls.map((headers) => seenBy(lab, { host, ...headers }, path)));
    expect(JSON.stringify(seen)).not.toContain(TOKEN);
    expect(seen.map(({ authorization }) => authorization)).toEqual([
      undefined,
      undefined,
      undefined,
      own.authorization,
    ]);
  }
});

test('a page reaches its own sandbox by its host name, and nothing below a path of the API', async () => {
  const lab = await served(mirror);
  const page = (path: string, headers: Record<string, string>, method = 'GET') =>
    lab.ask(method, path, { tcp: true, headers });
  const here = `http://${HOST}:${lab.port}`;
  const host = `${HOST}:${lab.port}`;
  const link = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' };
  for (const headers of [
    { origin: here },
    { origin: `http://3000-${ID}.localhost:${lab.port}`, 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'none' },
    link,
  ])
    expect((await page('/', { host, ...headers })).status).toBe(200);
  const foreign: Record<string, string>[] = [
    { origin: 'http://evil.example' },
    { origin: 'null' },
    { origin: `http://localhost:${lab.port}` },
    { origin: `http://8000-sb-0000000000.localhost:${lab.port}` },
    { origin: `http://8000-${ID}.localhost.evil.example` },
    { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors', 'sec-fetch-dest': 'image' },
    { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' },
  ];
  for (const headers of foreign) expectError(await page('/', { host, ...headers }), 403, 'origin_not_allowed');
  expectError(await page('/', { host, ...link }, 'POST'), 403, 'origin_not_allowed');
  for (const named of [
    `8000-${ID}.evil.example`,
    `0-${ID}.localhost`,
    `8000-sb-.localhost`,
    `8000-${ID}.localhost.evil.example`,
  ]) {
    expectError(await page('/', { host: named }), 403, 'host_not_allowed');
  }
  // A guest's page below a path of the API would be of the API's origin.
  for (const headers of [
    { 'sec-fetch-site': 'none' },
    { origin: `http://localhost:${lab.port}` },
    { host: 'evil.example' },
  ]) {
    const reply = await page(`${AT}/`, { host: `localhost:${lab.port}`, ...headers });
    expect(reply.status).toBe(403);
  }
  expect((await page(`${AT}/`, {})).headers['content-security-policy']).toBe('sandbox');
  // The page of a port is a stranger to the API.
  expectError(await page('/v1/sandboxes', { host: `localhost:${lab.port}`, origin: here }), 403, 'origin_not_allowed');
});

test('a signed URL opens its port alone, until it ends, and is kept from the guest', async () => {
  const getSandbox = () => ({ id: ID });
  const lab = await served(mirror, await withTokens(), { getSandbox });
  const bearer = { authorization: `Bearer ${TOKEN}` };
  const body = JSON.stringify({ port: 8000, expires_secs: 60 });
  const given = JSON.parse(
    (await lab.ask('POST', `/v1/sandboxes/web/urls`, { body, headers: bearer })).text,
  ) as PortUrl;
  expect(given.url).toMatch(new RegExp(`^http://${HOST}:${lab.port}/\\?forkd_access=\\d+\\.[\\w-]{43}$`));
  expect(Math.abs((given.expires_at_unix ?? 0) - Date.now() / 1000 - 60)).toBeLessThan(5);
  const { search } = new URL(given.url);
  const ask = (path: string, headers: Record<string, string> = {}, host = HOST) =>
    lab.ask('GET', path, { tcp: true, headers: { host, ...headers } });
  const called = await ask(`/a${search}&b=c`, { authorization: 'Bearer of-the-guest', cookie: 'x=y' });
  expect(JSON.parse(called.text)).toMatchObject({
    line: 'GET /a?b=c',
    authorization: 'Bearer of-the-guest',
    cookie: 'x=y',
  });
  // A browser keeps the right as a cookie, and the page never sees it.
  const opened = await ask(`//evil.example/${search}`, {
    'sec-fetch-dest': 'document',
    'sec-fetch-mode': 'navigate',
    'sec-fetch-site': 'cross-site',
  });
  expect([opened.status, opened.headers['location']]).toEqual([303, '/.//evil.example/']);
  const [cookie = ''] = opened.headers['set-cookie'] ?? [];
  expect(cookie).toMatch(/^forkd_access=[^;]+; Path=\/; HttpOnly; SameSite=Lax; Max-Age=\d+$/);
  const shown = cookie.split(';')[0] ?? '';
  const kept = await ask('/page', { cookie: `x=y; ${shown}; z=1` });
  expect(JSON.parse(kept.text)).toMatchObject({ line: 'GET /page', cookie: 'x=y; z=1' });
  const signature = shown.split('=')[1] ?? '';
  const [end, mac] = signature.split('.');
  for (const [path, headers, host] of [
    ['/', { cookie: shown }, `8001-${ID}.localhost`],
    ['/', { cookie: shown }, '8000-sb-0000000000.localhost'],
    ['/', { cookie: `forkd_access=${Number(end) + 1}.${mac}` }, HOST],
    ['/', { cookie: `forkd_access=${end}.${'A'.repeat(43)}` }, HOST],
    ['/?forkd_access=', {}, HOST],
    [`${AT}/${search}`, { cookie: shown }, 'localhost'],
    ['/v1/sandboxes', { cookie: shown }, 'localhost'],
  ] as const)
    expectError(await ask(path, headers, host), 401, 'unauthorized');
  const key = new PortKey(randomBytes(32));
  const past = key.sign({ sandbox: ID, port: 1 }, Math.floor(Date.now() / 1000));
  expect(key.check({ sandbox: ID, port: 1 }, past)).toBeNull();
});

test('the key of signed URLs is kept, and is its owner’s alone', async () => {
  const path = join(await scratch(), 'key');
  const port = { sandbox: ID, port: 1 };
  const signed = (await PortKey.open(path)).sign(port, 9_999_999_999);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect((await PortKey.open(path)).check(port, signed)).toBe(9_999_999_999);
});

test('a guest speaks for its own host name only', async () => {
  const lab = await served((_request, response) => {
    response.writeHead(200, {
      'strict-transport-security': 'max-age=9',
      'clear-site-data': '"*"',
      'alt-svc': 'h2=":1"',
      'service-worker-allowed': '/',
      connection: 'x-hop',
      'x-hop': '1',
      'content-security-policy': 'default-src *',
    });
    response.end();
  });
  const { headers } = await lab.ask('GET', `${AT}/`);
  for (const name of ['strict-transport-security', 'clear-site-data', 'alt-svc', 'service-worker-allowed', 'x-hop']) {
    expect(headers[name]).toBeUndefined();
  }
  expect(headers['content-security-policy']).toBe('default-src *, sandbox');
});

test.each([
  ['nothing', ''],
  ['no HTTP', 'SSH-2.0-OpenSSH_9\r\n'],
  ['endless headers', `HTTP/1.1 200 OK\r\nx: ${'y'.repeat(70_000)}\r\n\r\n`],
  ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab'],
  ['a split header', 'HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n'],
  ['an upgrade that nobody asked for', 'HTTP/1.1 101 Yes\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello'],
])('a program that answers %s is unreachable', async (_what, bytes) => {
  const lab = await labOf(answering(bytes));
  expectError(await lab.ask('GET', `${AT}/`), 502, 'port_unreachable');
  expectError(await lab.ask('POST', `${AT}/`, { body: 'x'.repeat(100_000) }), 502, 'port_unreachable');
});

test('a program that never answers is given up; one that breaks off breaks off for the caller', async () => {
  const silentLab = await labOf(answering('HTTP/1.1 100 Continue\r\n\r\n', false), null, 100);
  expectError(await silentLab.ask('GET', `${AT}/`), 502, 'port_unreachable');
  const lab = await labOf(answering('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort'));
  await expect(lab.ask('GET', `${AT}/`)).rejects.toThrow(/aborted|hang up/);
  expect((await lab.ask('GET', '/version')).status).toBe(200);
});
