// Proves what is asked a second time and what never is: a server that answers with what passes, or loses the connection
// before or inside its answer, counts how often it was asked, and by which keys.
import type http from 'node:http';
import { ApiError } from '@forkd/api';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ForkdClient } from '../src/index.ts';
import { FakeController } from './support/fake-controller.ts';
import { readJson, send } from './support/replies.ts';

type Reply = (response: http.ServerResponse) => void;

const ID = 'sb-0000000001';
let fake: FakeController;
let client: ForkdClient;
let keys: (string | string[] | undefined)[];

beforeAll(async () => {
  fake = await FakeController.start();
  client = new ForkdClient({ socket: fake.socket });
});
afterAll(() => fake.stop());
beforeEach(() => {
  fake.overrides.clear();
  keys = [];
});

/** Answers a route with these in turn, and with the last of them from then on. */
function inTurn(route: string, ...replies: Reply[]): void {
  fake.overrides.set(route, async (request, response) => {
    await readJson(request);
    keys.push(request.headers['idempotency-key']);
    replies[Math.min(keys.length, replies.length) - 1]?.(response);
  });
}

const lose: Reply = (response) => response.destroy();
const loseInside: Reply = (response) => {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' });
  response.write('{"version":', () => response.destroy());
};
const failed = (code: 'pager_unavailable' | 'branch_cap' | 'shutting_down', headers = {}): Reply => {
  const error = new ApiError(code, 'not now');
  return (response) => {
    response.writeHead(error.status, { 'content-type': 'application/json', ...headers });
    response.end(JSON.stringify(error.toBody()));
  };
};
const gateway: Reply = (response) => {
  response.writeHead(502, { 'content-type': 'text/html' });
  response.end('<h1>Bad Gateway</h1>');
};
const ok =
  (body: unknown): Reply =>
  (response) =>
    send(response, 200, body);

describe('a read', () => {
  test.each([
    ['a lost connection', lose],
    ['an answer that was cut', loseInside],
    ['503 of the controller', failed('pager_unavailable')],
    ['502 of something in between', gateway],
  ])('is asked again after %s', async (_, reply) => {
    inTurn('GET /version', reply, ok({ version: '1', api: 'v1' }));
    expect(await client.version()).toEqual({ version: '1', api: 'v1' });
    expect(keys).toEqual([undefined, undefined]);
  });

  test('is given up after four times, with the error of the last', async () => {
    inTurn('GET /version', failed('pager_unavailable'));
    await expect(client.version()).rejects.toMatchObject({ status: 503, code: 'pager_unavailable' });
    expect(keys).toHaveLength(4);
  });

  test('is not asked again after what does not pass', async () => {
    inTurn('GET /version', (response) => send(response, 500, new ApiError('internal', 'a bug').toBody()));
    await expect(client.version()).rejects.toMatchObject({ code: 'internal' });
    expect(keys).toHaveLength(1);
  });

  test('waits as long as it is asked to, and tells the caller where that is too long', async () => {
    const startMs = performance.now();
    inTurn('GET /version', failed('shutting_down', { 'retry-after': '1' }), ok({ version: '1', api: 'v1' }));
    await client.version();
    expect(performance.now() - startMs).toBeGreaterThanOrEqual(990);
    keys = [];
    inTurn('GET /version', failed('shutting_down', { 'retry-after': '3600' }));
    await expect(client.version()).rejects.toMatchObject({ code: 'shutting_down', retryAfterMs: 3_600_000 });
    expect(keys).toHaveLength(1);
  });

  test('keeps to the time of the call, its waiting included', async () => {
    inTurn('GET /version', failed('shutting_down', { 'retry-after': '9' }));
    const call = client.version({ timeoutMs: 200 });
    await expect(call).rejects.toMatchObject({ code: 'request_timeout' });
    const reason = new Error('enough');
    const controller = new AbortController();
    const aborted = client.version({ signal: controller.signal });
    setTimeout(() => controller.abort(reason), 50);
    await expect(aborted).rejects.toBe(reason);
  });

  test('is asked only once where it is the question whether somebody answers', async () => {
    inTurn('GET /healthz', failed('shutting_down'));
    await expect(client.health()).rejects.toMatchObject({ code: 'shutting_down' });
    expect(keys).toHaveLength(1);
  });
});

describe('what must not be done twice', () => {
  const calls: [string, string, () => Promise<unknown>][] = [
    ['a fork', 'POST /v1/sandboxes', () => client.createSandboxes({ snapshot_tag: 'py', n: 3 })],
    ['a partial fork', 'POST /v1/sandboxes', () => client.createSandboxesPartially({ snapshot_tag: 'py' })],
    ['a branch', `POST /v1/sandboxes/${ID}/branch`, () => client.branch(ID)],
    ['a build', 'POST /v1/snapshots', () => client.createSnapshot({ tag: 'py', source: 'python' })],
  ];

  test.each(calls)('%s has one key for all its tries, and another for the next call', async (_, route, call) => {
    inTurn(route, lose, loseInside, gateway, ok([]));
    await call();
    expect(keys).toHaveLength(4);
    const [key] = keys;
    expect(key).toMatch(/^[0-9a-f]{32}$/);
    expect(new Set(keys)).toEqual(new Set([key]));
    await call();
    expect(keys[4]).not.toBe(key);
  });

  test.each(calls)('%s is not asked again when the controller itself has answered', async (_, route, call) => {
    inTurn(route, failed('branch_cap', { 'retry-after': '1' }));
    await expect(call()).rejects.toMatchObject({ code: 'branch_cap', retryAfterMs: 1000 });
    expect(keys).toHaveLength(1);
  });

  test.each<[string, string, () => Promise<unknown>]>([
    ['a command', `POST /v1/sandboxes/${ID}/exec`, () => client.exec(ID, { args: ['true'] })],
    ['an evaluation', `POST /v1/sandboxes/${ID}/eval`, () => client.eval(ID, { code: 'x += 1' })],
    ['a deletion', 'DELETE /v1/snapshots/py', () => client.deleteSnapshot('py')],
  ])('%s has no key, and is asked once', async (_, route, call) => {
    inTurn(route, lose);
    await expect(call()).rejects.toMatchObject({ code: 'stream_cut' });
    expect(keys).toEqual([undefined]);
  });
});

test('a request that cannot be written as JSON is told as such, not as a lost connection', async () => {
  const args = [1n] as unknown as string[];
  await expect(client.exec(ID, { args })).rejects.toMatchObject({ name: 'TypeError', message: /BigInt/ });
});

test('tells that the answer was lost, not that nobody answers any more', async () => {
  const brief = await FakeController.start();
  let stopped: Promise<void> | undefined;
  brief.overrides.set('POST /v1/sandboxes', (_, response) => {
    stopped = brief.stop();
    response.destroy();
  });
  const call = new ForkdClient({ url: brief.url }).createSandboxes({ snapshot_tag: 'py' });
  await expect(call).rejects.toMatchObject({ code: 'stream_cut' });
  await stopped;
});

test('bytes are sent again when the connection was refused, since nothing of them had been read', async () => {
  const later = await FakeController.start();
  const server = later.url;
  const sent: string[] = [];
  later.overrides.set(`PUT /v1/sandboxes/${ID}/files`, async (request, response) => {
    for await (const chunk of request) sent.push(String(chunk));
    send(response, 200, {});
  });
  let refusals = 0;
  const refuseTwice: typeof fetch = async (url, init) => {
    if ((refusals += 1) <= 2) throw new TypeError('fetch failed', { cause: { code: 'ECONNREFUSED' } });
    return fetch(url, init);
  };
  await new ForkdClient({ url: server, fetch: refuseTwice }).writeFile(ID, '/tmp/file', Buffer.from('bytes'));
  expect(sent).toEqual(['bytes']);
  await later.stop();
});
