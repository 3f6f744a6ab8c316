/**
 * Networks of real guests, with servers and a DNS server of their own on loopback: what is reached is what the policy says and
 * what the log says; a branch leaves the connections of its source whole and ends those of its children; the network outlives
 * the processes that serve it.
 */

import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { type IncomingMessage, request as httpRequest } from 'node:http';
import type { Socket } from 'node:net';
import { pipeline, Readable } from 'node:stream';
import { text as bodyText } from 'node:stream/consumers';
import type { NetworkFlow, NetworkPolicy } from '@forkd/api';
import { codeOf, Internet, shell, type TestController, until } from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { afterAll, beforeAll, describe, expect } from 'vitest';

const WAIT_MS = 60_000;
/** The file has so many pieces of a MiB. */
const PIECES = 96;

const internet = await Internet.start();
afterAll(() => internet[Symbol.asyncDispose]());

const test = base.override('controllerOptions', {
  args: ['--resolver', internet.resolver, '--vmm-pool', '3'],
  knowsKernel: true,
});

/** A page, an endless conversation, and a long file, each at a port of its own. */
let page: number;
let talk: number;
let file: number;
const talks = new Set<Socket>();
const content = Buffer.alloc(1024 * 1024);
for (let at = 0; at < content.length; at += 4) content.writeUInt32LE((at * 2_654_435_761) % 2 ** 32, at);

beforeAll(async () => {
  page = await internet.serve((socket) => socket.end('HTTP/1.0 200 OK\r\n\r\nhello\n'));
  talk = await internet.serve((socket) => {
    talks.add(socket);
    socket.once('close', () => talks.delete(socket));
    // Whether a busy peer sees a reset or an end first is up to the kernel.
    socket.once('end', () => socket.destroy());
    socket.write('hello\n');
    socket.resume();
  });
  file = await internet.serve((socket) => {
    pipeline(Readable.from(Array.from({ length: PIECES }, () => content)), socket, () => undefined);
  });
});

/** Loopback is reached only if a rule names its address, even by a name that is allowed. */
const reach = (...names: string[]): NetworkPolicy => ({ allow: [...names, '127.0.0.1'] });

const get = (name: string, port = page) => `wget -q -O - http://${name}:${port}/`;

async function fails(client: TestController['client'], id: string, script: string): Promise<boolean> {
  const { exit_code: code } = await client.exec(id, { args: ['sh', '-c', script], timeout_secs: 30 });
  return code !== 0;
}

async function flowsOf({ client }: TestController, id: string): Promise<NetworkFlow[]> {
  const flows: NetworkFlow[] = [];
  for await (const flow of client.networkFlows({ sandbox: id })) flows.push(flow);
  return flows;
}

async function fork({ client }: TestController, tag: string, network?: NetworkPolicy): Promise<string> {
  const [sandbox] = await client.createSandboxes({ snapshot_tag: tag, ...(network && { network }) });
  return sandbox?.id ?? '';
}

describe('a network', () => {
  let id: string;

  test('is closed, unless its template or a fork says otherwise', async ({ controller, client }) => {
    await client.createSnapshot({ tag: 'net', source: 'recipe:busybox', mem_mib: 256, network: {} });
    id = await fork(controller, 'net');
    expect((await client.getSandbox(id)).network).toEqual({});
    expect(await fails(client, id, get('api.test'))).toBe(true);
    await until('the log tells it', WAIT_MS, async () => (await flowsOf(controller, id)).length > 0);
    expect(await flowsOf(controller, id)).toContainEqual(
      expect.objectContaining({ phase: 'denied', name: 'api.test', rule: null, reason: 'no_rule' }),
    );
    expect(internet.asked).toEqual([]);
  });

  test('reaches what a rule names and nothing else, and the log says the same', async ({ controller, client }) => {
    await client.setNetwork(id, { ...reach(`api.test:${page}`, '*.below.test'), deny: ['no.below.test'] });
    expect(await shell(client, id, get('api.test'))).toBe('hello');
    expect(await shell(client, id, get('yes.below.test'))).toBe('hello');
    for (const name of ['other.test', 'below.test', 'no.below.test']) {
      expect(await fails(client, id, get(name))).toBe(true);
    }
    expect(await fails(client, id, get('api.test', talk))).toBe(true);
    // An address is no name, and a resolver of the guest's own choice is not asked.
    expect(await fails(client, id, get('8.8.8.8', 80))).toBe(true);
    expect(await fails(client, id, 'nslookup api.test 8.8.8.8')).toBe(true);
    await until('the log has the last', WAIT_MS, async () =>
      (await flowsOf(controller, id)).some(({ address, port }) => address === '8.8.8.8' && port === 53),
    );
    const flows = await flowsOf(controller, id);
    const reached = flows.filter(({ phase }) => phase === 'closed').map(({ name }) => name);
    expect(reached).toEqual(['api.test', 'yes.below.test']);
    expect(flows).toContainEqual(
      expect.objectContaining({ phase: 'closed', name: 'api.test', rule: `api.test:${page}`, received_bytes: 25 }),
    );
    const denied = new Set(flows.filter(({ phase }) => phase === 'denied').map(({ name, address }) => name ?? address));
    expect(denied).toEqual(new Set(['api.test', 'other.test', 'below.test', 'no.below.test', '8.8.8.8']));
    expect(new Set(internet.asked)).toEqual(new Set(['api.test', 'yes.below.test']));
  });

  test('that is closed while it is used ends the open connection, and no other', async ({ controller, client }) => {
    const stays = await fork(controller, 'net', reach('api.test'));
    await client.setNetwork(id, reach('api.test'));
    const dials = [id, stays].map((each) => shell(client, each, `nc api.test ${talk} </dev/zero >/dev/null & echo`));
    await Promise.all(dials);
    await until('both talk', WAIT_MS, async () => talks.size === 2);
    await client.setNetwork(id, {});
    await until('one has ended', WAIT_MS, async () => talks.size === 1);
    expect(await flowsOf(controller, id)).toContainEqual(
      expect.objectContaining({ phase: 'closed', name: 'api.test', port: talk, reason: 'policy_changed' }),
    );
    expect(await fails(client, id, get('api.test', talk))).toBe(true);
    expect(await shell(client, stays, 'pidof nc')).not.toBe('');
    await client.deleteSandbox(stays);
    await until('the other has ended with its sandbox', WAIT_MS, async () => talks.size === 0);
  });

  test('goes on through branches, and ends the connections of their children', async ({ controller, client }) => {
    await client.setNetwork(id, reach('api.test'));
    await shell(client, id, `nc api.test ${talk} </dev/zero >/dev/null 2>/dev/null & echo`);
    await until('the guest talks', WAIT_MS, async () => talks.size === 1);
    const script = `nc api.test ${file} </dev/null | sha256sum`;
    const stream = client.exec(id, { args: ['sh', '-c', script], timeout_secs: 300 });
    // A failure is thrown below, where it is awaited.
    stream.catch(() => undefined);
    await until('the file is on its way', WAIT_MS, async () =>
      (await flowsOf(controller, id)).some(({ phase, port }) => phase === 'opened' && port === file),
    );
    for (const tag of ['one', 'two', 'three']) {
      await client.branch(id, { tag, mode: 'live', until: 'ready' });
      const child = await fork(controller, tag);
      expect((await client.getSandbox(child)).network).toEqual(reach('api.test'));
      // No connection of its source is left in the child, and a new one is made by the name that its guest remembers.
      await until('its programs were told', WAIT_MS, async () => fails(client, child, 'pidof nc'));
      expect(await shell(client, child, get('api.test'))).toBe('hello');
      await client.deleteSandbox(child);
    }
    const hash = createHash('sha256');
    for (let piece = 0; piece < PIECES; piece += 1) hash.update(content);
    expect((await stream).stdout).toBe(`${hash.digest('hex')}  -\n`);
    expect(talks.size).toBe(1);
  });

  test('lets callers in through a port of the controller', async ({ client }) => {
    await shell(client, id, 'nc -ll -p 8000 -e cat >/dev/null 2>&1 </dev/null & echo');
    await until('the guest listens', WAIT_MS, async () => !(await fails(client, id, 'netstat -ltn | grep -q :8000')));
    async function* words(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('over and ');
      yield Buffer.from('back');
    }
    let said = '';
    for await (const piece of client.connectPort(id, 8000, words())) said += Buffer.from(piece).toString();
    expect(said).toBe('over and back');
    const refused = client.connectPort(id, 8001, words()).next();
    expect(await codeOf(refused)).toBe('port_unreachable');
  });

  test('lets HTTP in, by a path and by a host name, also to what listens on loopback only', async ({
    controller,
    client,
  }) => {
    const plain = await fork(controller, 'base');
    for (const [each, address] of [
      [id, '0.0.0.0:8080'],
      [id, '127.0.0.1:8081'],
      [plain, '127.0.0.1:8081'],
    ] as const) {
      const port = Number(address.split(':')[1]);
      await shell(client, each, `mkdir -p /www && echo page of ${port} >/www/page && httpd -h /www -p ${address}`);
      for (const [path, host] of [
        [`/v1/sandboxes/${each}/ports/${port}/page`, 'localhost'],
        ['/page', `${port}-${each}.localhost`],
      ] as const) {
        const asked = httpRequest({ socketPath: controller.socket, path, headers: { host } }).end();
        const [reply] = (await once(asked, 'response')) as [IncomingMessage];
        expect([reply.statusCode, await bodyText(reply)]).toEqual([200, `page of ${port}\n`]);
      }
    }
    expect(await codeOf(client.connectPort(plain, 8082, Readable.from([])).next())).toBe('port_unreachable');
    await client.deleteSandbox(plain);
  });

  test('can be that of a warm-up alone', async ({ controller, client }) => {
    const built = await client.createSnapshot({
      tag: 'warmed',
      source: 'recipe:busybox',
      mem_mib: 256,
      warm_network: reach(`api.test:${page}`),
      warm_command: [
        'sh',
        '-c',
        `${get('api.test')} >/fetched && ! ${get('other.test')} && (nc api.test ${page} </dev/zero &)`,
      ],
    });
    expect(built.network).toEqual({});
    const child = await fork(controller, 'warmed');
    expect((await client.getSandbox(child)).network).toEqual({});
    expect(await shell(client, child, 'cat /fetched')).toBe('hello');
    expect(await fails(client, child, get('api.test'))).toBe(true);
    await until('the log says so', WAIT_MS, async () => (await flowsOf(controller, child)).length > 0);
    const flows = await flowsOf(controller, child);
    expect(new Set(flows.map(({ phase, name }) => `${phase} ${name}`))).toEqual(new Set(['denied api.test']));
    const opened = await fork(controller, 'warmed', reach('api.test'));
    expect(await shell(client, opened, get('api.test'))).toBe('hello');
    await Promise.all([child, opened].map((each) => client.deleteSandbox(each)));
    await client.deleteSnapshot('warmed');
  });

  test('outlives the processes that serve it', async ({ controller, client }) => {
    await controller.killOnly('net');
    await until('names are reached again', WAIT_MS, async () => !(await fails(client, id, get('api.test'))));
    expect(await fails(client, id, get('other.test'))).toBe(true);
    await controller.kill9();
    await controller.serve(['--resolver', internet.resolver]);
    expect(await shell(client, id, get('api.test'))).toBe('hello');
    expect(await fails(client, id, get('other.test'))).toBe(true);
    await client.setNetwork(id, {});
    expect(await fails(client, id, get('api.test'))).toBe(true);
  });

  test('is refused in words where there is no device, and for a rule that is none', async ({ controller, client }) => {
    const policy = { allow: ['https://api.test'] };
    expect(await codeOf(client.setNetwork(id, policy))).toBe('bad_request');
    const asked = { snapshot_tag: 'base', network: {} };
    expect(await codeOf(client.createSandboxes(asked))).toBe('unsupported');
    const plain = await fork(controller, 'base');
    expect((await client.getSandbox(plain)).network).toBeUndefined();
    expect(await shell(client, plain, 'ls /sys/class/net')).toBe('lo');
    expect(await codeOf(client.setNetwork(plain, {}))).toBe('unsupported');
    await Promise.all([plain, id].map((each) => client.deleteSandbox(each)));
  });
});
