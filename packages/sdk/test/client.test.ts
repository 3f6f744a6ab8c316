// Proves the client against a real HTTP server over a unix socket and over TCP: requests and answers, streams, errors in
// every shape, aborts and timeouts, each of them ending the connection as well as the call.
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ForkdClient, ForkdError, Sandbox, Snapshot } from '../src/index.ts';
import { FakeController } from './support/fake-controller.ts';
import { line, send } from './support/replies.ts';

let fake: FakeController;

beforeAll(async () => {
  fake = await FakeController.start();
});
afterAll(() => fake.stop());
beforeEach(() => {
  fake.overrides.clear();
  fake.sandboxes.clear();
  fake.snapshots.clear();
  fake.seen.length = 0;
  fake.token = undefined;
  fake.addSnapshot('py');
  fake.addSandbox('sb-0000000001');
});

describe.each([
  ['unix socket', () => new ForkdClient({ socket: fake.socket })],
  ['unix url', () => new ForkdClient({ url: `unix:${fake.socket}` })],
  ['tcp', () => new ForkdClient({ url: `${fake.url}/` })],
])('over %s', (_, open) => {
  test('asks and answers', async () => {
    const client = open();
    expect(await client.health()).toEqual({ ok: true });
    expect(await client.version()).toEqual({ version: '9.9.9', api: 'v1' });
    expect((await client.listSandboxes()).map((sandbox) => sandbox.id)).toEqual(['sb-0000000001']);
    await client.close();
  });

  test('runs a command and keeps every byte of both streams', async () => {
    const sandbox = await Sandbox.connect('sb-0000000001', { client: open() });
    const chunks: Buffer[] = [];
    const result = await sandbox.commands.run(['sh', '-c', 'head -c 300000 /dev/urandom | tee /dev/stderr; exit 3'], {
      onStdout: (chunk) => chunks.push(Buffer.from(chunk)),
    });
    expect(result).toMatchObject({ exitCode: 3, signal: null, timedOut: false, lostBytes: 0 });
    expect(Buffer.concat(chunks)).toHaveLength(300_000);
    expect(await sandbox.commands.list()).toEqual([]);
  });

  test('streams a file of several chunks both ways', async () => {
    const sandbox = await Sandbox.connect('sb-0000000001', { client: open() });
    const bytes = Buffer.alloc(1_000_000, 'forkd');
    await sandbox.files.write(
      '/tmp/data',
      (async function* () {
        yield bytes.subarray(0, 10);
        yield bytes.subarray(10);
      })(),
    );
    expect(Buffer.from(await sandbox.files.readBytes('/tmp/data')).equals(bytes)).toBe(true);
    expect(await sandbox.files.list('/tmp')).toContainEqual(
      expect.objectContaining({ name: 'data', type: 'file', size: 1_000_000 }),
    );
    expect(await sandbox.files.remove('/tmp/data')).toBe(true);
    expect(await sandbox.files.remove('/tmp/data')).toBe(false);
    await sandbox.files.write('/tmp/text', 'grüße');
    expect(await sandbox.files.read('/tmp/text')).toBe('grüße');
  });
});

describe('resources', () => {
  const options = () => ({ client: new ForkdClient({ socket: fake.socket }) });

  test('creates, forks, branches and kills', async () => {
    const sandbox = await Sandbox.create('py', options());
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({ snapshot_tag: 'py', n: 1 });
    expect((await sandbox.eval('1+1')).result).toBe("'1+1'");
    expect(await sandbox.ping()).toEqual({ pong: true, pid: 1 });
    const children = await sandbox.fork(3, { tag: 'b1' });
    expect(children.map((child) => child.info.snapshot_tag)).toEqual(['b1', 'b1', 'b1']);
    expect(JSON.parse(fake.seen.at(-2)?.body ?? '')).toEqual({ tag: 'b1', mode: 'live', until: 'ready' });
    expect(await sandbox.kill()).toBe(true);
    expect(await sandbox.kill()).toBe(false);
    expect(await Snapshot.delete('nope', options())).toBe(false);
  });

  test('tells the progress of a build and its result', async () => {
    const stages: string[] = [];
    const onProgress = (event: { stage: string }) => stages.push(event.stage);
    const built = await Snapshot.create({ tag: 'new', source: 'python' }, { ...options(), onProgress });
    expect(stages).toEqual(['boot']);
    expect(built.snapshot.tag).toBe('new');
    expect(built.times).toEqual({ build_ms: 1, boot_ms: 2, warm_ms: 3, snapshot_ms: 4 });
  });

  test('starts, feeds, signals, attaches from an offset', async () => {
    const { commands } = await Sandbox.connect('sb-0000000001', options());
    const info = await commands.start(['cat'], { stdin: true });
    await commands.sendStdin(info.id, 'hello ');
    await commands.sendStdin(info.id, Buffer.from('world'), { close: true });
    const handle = await commands.attach(info.id, { offset: 6 });
    expect(await handle.wait()).toMatchObject({ stdout: 'world', exitCode: 0 });
    const sleeper = await commands.start('sleep 100');
    await commands.signal(sleeper.id, 'TERM');
    const ended = await (await commands.attach(sleeper.id)).wait();
    expect(ended).toMatchObject({ exitCode: 143, signal: 'TERM' });
    expect(await commands.kill(sleeper.id)).toBe(true);
    expect(await commands.kill(sleeper.id)).toBe(false);
  });

  test('keeps the output of a command that ran out of time', async () => {
    const { commands } = await Sandbox.connect('sb-0000000001', options());
    const result = await commands.run('echo so far; sleep 100', { timeoutMs: 1000 });
    expect(result).toMatchObject({ stdout: 'so far\n', timedOut: true });
  });

  test('rejects for a failed snapshot, with its reason', async () => {
    fake.addSnapshot('bad', { status: 'failed', error: 'the disk is full' });
    const snapshot = await Snapshot.get('bad', options());
    await expect(snapshot.waitUntil('ready')).rejects.toThrow('the disk is full');
  });
});

describe('errors', () => {
  const client = () => new ForkdClient({ socket: fake.socket });

  test('carries status, code, hint and request id', async () => {
    const error: unknown = await client()
      .getSandbox('sb-nope')
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ForkdError);
    expect(error).toMatchObject({ status: 404, code: 'not_found_sandbox', requestId: 'req-1' });
    expect((error as ForkdError).hint).toContain('forkd ls');
  });

  test('sends the token, and says what is wrong without it', async () => {
    fake.token = 'correct-horse-battery';
    await expect(client().version()).rejects.toMatchObject({ status: 401, code: 'unauthorized' });
    const authorised = new ForkdClient({ socket: fake.socket, token: fake.token });
    expect((await authorised.version()).api).toBe('v1');
  });

  test('takes an error of somebody else for what it is', async () => {
    fake.overrides.set('GET /version', (_, response) => {
      response.writeHead(502, { 'content-type': 'text/html' });
      response.end('<h1>Bad Gateway</h1>');
    });
    await expect(client().version()).rejects.toMatchObject({ status: 502, code: 'bad_response' });
    fake.overrides.set('GET /version', (_, response) => send(response, 404, { error: 'no such route' }));
    await expect(client().version()).rejects.toMatchObject({ status: 404, message: 'no such route' });
    fake.overrides.set('GET /version', (_, response) => void response.end('not json'));
    await expect(client().version()).rejects.toMatchObject({ code: 'bad_response' });
  });

  test('names the place where nobody answers', async () => {
    const nobody = new ForkdClient({ socket: `${fake.socket}.none` });
    await expect(nobody.health()).rejects.toMatchObject({ code: 'connection_failed', status: 0 });
    await expect(nobody.health()).rejects.toThrow(`${fake.socket}.none`);
    expect(() => new ForkdClient({ url: 'localhost:8889' })).toThrow(ForkdError);
  });

  test('says that a port speaks plain HTTP if it is called with https://', async () => {
    const server = http.createServer((_, response) => response.end('{"ok":true}')).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    await expect(new ForkdClient({ url: `https://127.0.0.1:${port}` }).health()).rejects.toMatchObject({
      code: 'connection_failed',
      message: expect.stringMatching(/^No TLS is spoken at https:/),
      hint: expect.stringContaining('http://'),
    });
    server.close();
  });

  test('times out, and ends the request', async () => {
    let closed = false;
    fake.overrides.set('GET /version', (request) => void request.socket.once('close', () => (closed = true)));
    await expect(client().version({ timeoutMs: 100 })).rejects.toMatchObject({ code: 'request_timeout' });
    await expect.poll(() => closed).toBe(true);
  });

  test('makes many requests under one signal without a word on stderr, and all of them end with it', async () => {
    const warnings: Error[] = [];
    const note = (warning: Error) => warnings.push(warning);
    process.on('warning', note);
    const controller = new AbortController();
    const { signal } = controller;
    const calls = Array.from({ length: 30 }, () => client().version({ signal }));
    await Promise.all(calls);
    fake.overrides.set('GET /version', () => undefined);
    const hanging = Promise.allSettled(Array.from({ length: 30 }, () => client().version({ signal })));
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 50);
    for (const call of await hanging) expect(call).toEqual({ status: 'rejected', reason });
    process.off('warning', note);
    expect(warnings.filter(({ name }) => name === 'MaxListenersExceededWarning')).toEqual([]);
  });

  test("rejects with the signal's own reason, before and during the call", async () => {
    fake.overrides.set('GET /version', () => {});
    const reason = new Error('enough');
    await expect(client().version({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const call = client().version({ signal: controller.signal });
    setTimeout(() => controller.abort(reason), 50);
    await expect(call).rejects.toBe(reason);
  });

  test('says that a stream was cut, wherever it was', async () => {
    const { commands } = await Sandbox.connect('sb-0000000001', { client: client() });
    const output = 'GET /v1/sandboxes/sb-0000000001/commands/7/output';
    fake.overrides.set('GET /v1/sandboxes/sb-0000000001/commands/7', (_, response) =>
      send(response, 200, { id: '7', pid: 1 }),
    );
    fake.overrides.set(output, (_, response) => {
      line(response, { type: 'stdout', offset: 0, data: 'aGk=' });
      setTimeout(() => response.destroy(), 50);
    });
    await expect((await commands.attach('7')).wait()).rejects.toMatchObject({ code: 'stream_cut' });
    fake.overrides.set(output, (_, response) => void response.end());
    await expect((await commands.attach('7')).wait()).rejects.toMatchObject({ code: 'stream_cut' });
    fake.overrides.set(output, (_, response) => {
      line(response, { type: 'gap', from: 0, to: 5 });
      line(response, { type: 'error', error: 'the guest is gone', code: 'guest_unreachable' });
      response.end();
    });
    await expect((await commands.attach('7')).wait()).rejects.toMatchObject({ code: 'guest_unreachable' });
  });

  test('ends the request when the reader of a stream has enough', async () => {
    let closed = false;
    fake.overrides.set('GET /v1/sandboxes/sb-0000000001/commands/7/output', (_, response) => {
      line(response, { type: 'stdout', offset: 0, data: 'aGk=' });
      response.once('close', () => (closed = true));
    });
    for await (const event of client().commandOutput('sb-0000000001', '7')) {
      expect(event.type).toBe('stdout');
      break;
    }
    await expect.poll(() => closed).toBe(true);
  });
});
