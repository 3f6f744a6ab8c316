/**
 * The controller's edge on a real process: who may call over TLS, what is written down about it and what never is, what
 * SIGHUP and SIGTERM do while requests run, what a service manager hears, and what a scrape tells after real forks, commands
 * and branches.
 */

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { get } from 'node:http';
import { request } from 'node:https';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ForkdClient } from '@forkd/sdk';
import { forkOne, REPO, TestController, until } from '@forkd/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makePair, type Pair } from '../../packages/controller/test/certificates.ts';
import { type Datagram, receiveDatagrams } from '../../packages/controller/test/datagrams.ts';
import { parsePrometheus } from '../../packages/controller/test/prometheus-text.ts';

const WAIT_MS = 30_000;
const TOKEN = 'a-token-that-nobody-must-read-anywhere';
const WRONG_TOKEN = 'a-wrong-token-that-is-as-secret-as-any';
const SECRET = 'S3CRET';

interface Reply {
  status: number;
  id: string;
  text: string;
}

describe('the port, with TLS and tokens', () => {
  let dir: string;
  let pair: Pair;
  let controller: TestController;
  const audit = () => join(dir, 'audit.log');

  beforeAll(async () => {
    dir = await mkdtemp('/tmp/fke-');
    pair = await makePair(dir, 'edge');
    await writeFile(join(dir, 'tokens'), `${TOKEN}\n`, { mode: 0o600 });
    const files = ['--tls-cert', pair.cert, '--tls-key', pair.key, '--token-file', join(dir, 'tokens')];
    const args = ['--bind', '127.0.0.1:0', ...files, '--audit-log', audit(), '--log-level', 'trace'];
    controller = await TestController.start({ args, env: { FORKD_BRANCH_CONCURRENCY: '7' } });
  });

  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
    if (dir) await rm(dir, { recursive: true });
  });

  function ask(method: string, url: string, token: string | null, body?: string): Promise<Reply> {
    const headers = {
      'content-type': 'application/json',
      ...(token !== null && { authorization: `Bearer ${token}` }),
    };
    return new Promise((resolve, reject) => {
      const asking = request(`${controller.url}${url}`, { method, ca: pair.pem, headers }, (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => (text += chunk.toString()));
        const id = String(response.headers['x-request-id']);
        response.on('end', () => resolve({ status: response.statusCode ?? 0, id, text }));
      });
      asking.on('error', reject).end(body);
    });
  }

  const lines = async (file: string): Promise<Record<string, unknown>[]> =>
    (await readFile(file, 'utf8'))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Record<string, unknown>);

  test('answers who shows a token, and writes down whose token it was', async () => {
    const known = await ask('GET', '/version', TOKEN);
    expect(known.status).toBe(200);
    const unknown = await ask('GET', '/version', WRONG_TOKEN);
    expect(unknown.status).toBe(401);
    expect(JSON.parse(unknown.text)).toMatchObject({ code: 'unauthorized', request_id: unknown.id });
    expect((await ask('GET', '/metrics', null)).status).toBe(401);
    const scrape = await ask('GET', '/metrics', TOKEN);
    expect(parsePrometheus(scrape.text).get('forkd_branch_concurrency_cap')?.samples[0]?.value).toBe(7);
    const tokenId = createHash('sha256').update(TOKEN).digest('hex').slice(0, 8);
    await until('the lines are there', WAIT_MS, async () =>
      (await lines(audit())).some((l) => l['request_id'] === scrape.id),
    );
    const found = (id: string) => lines(audit()).then((all) => all.find((line) => line['request_id'] === id));
    expect(await found(known.id)).toMatchObject({
      status: 200,
      token_id: tokenId,
      remote: '127.0.0.1',
      path: '/version',
    });
    expect(await found(unknown.id)).toMatchObject({ status: 401, token_id: null });
    expect((await stat(audit())).mode & 0o777).toBe(0o600);
  });

  test('writes no token, no query and no body to a log, at any level', async () => {
    const sandbox = '/v1/sandboxes/sb-none';
    const replies = [
      await ask('GET', `${sandbox}/files?path=/${SECRET}`, TOKEN),
      await ask('GET', `/nowhere?token=${SECRET}`, TOKEN),
      await ask('GET', `/%zz?token=${SECRET}`, TOKEN),
      await ask('GET', `/version?token=${SECRET}`, WRONG_TOKEN),
      await ask('POST', `${sandbox}/exec`, TOKEN, `{"args":["true"],"env":{"KEY":["${SECRET}"]}}`),
      await ask('POST', `${sandbox}/exec`, TOKEN, `{"${SECRET}`),
      await ask('POST', `${sandbox}/exec`, TOKEN, `{"args":["${SECRET}"]}`),
      await ask('GET', `/v1/sandboxes?${'a'.repeat(9000)}${SECRET}`, TOKEN),
    ];
    expect(replies.map(({ status }) => status)).toEqual([404, 404, 400, 401, 400, 400, 404, 414]);
    const last = replies.at(-1)?.id ?? '';
    await until('the log has the last request', WAIT_MS, async () => controller.log.includes(last));
    await until('so has the audit log', WAIT_MS, async () => (await readFile(audit(), 'utf8')).includes(last));
    // Each request is in the log, with its id: what is not found below was not simply left out.
    for (const { id } of replies) expect(controller.log).toContain(id);
    for (const text of [controller.log, await readFile(audit(), 'utf8')]) {
      for (const secret of [TOKEN, WRONG_TOKEN, SECRET]) expect(text).not.toContain(secret);
    }
  });

  test('is reached by the command as it is, which is told of the authority', async () => {
    const cli = join(REPO, 'packages/cli/bundle/forkd.js');
    const env = { ...process.env, FORKD_URL: controller.url, FORKD_TOKEN: TOKEN };
    const list = (more: NodeJS.ProcessEnv) =>
      promisify(execFile)(process.execPath, [cli, 'ls', '--json'], { env: { ...env, ...more } });
    const { stdout } = await list({ NODE_EXTRA_CA_CERTS: pair.cert });
    expect(JSON.parse(stdout)).toEqual([]);
    await expect(list({})).rejects.toThrow(/SELF_SIGNED_CERT/);
    await expect(list({ NODE_EXTRA_CA_CERTS: pair.cert, FORKD_TOKEN: WRONG_TOKEN })).rejects.toThrow(/bearer token/);
  });

  test('is not called by who does not trust its certificate, who is told what to do', async () => {
    const stranger = new ForkdClient({ url: controller.url, token: TOKEN });
    await expect(stranger.health()).rejects.toMatchObject({
      code: 'connection_failed',
      message: expect.stringContaining('DEPTH_ZERO_SELF_SIGNED_CERT') as string,
      hint: expect.stringContaining('NODE_EXTRA_CA_CERTS') as string,
    });
  });

  test('is not called without TLS, and the caller learns that the port may speak it', async () => {
    const plain = new ForkdClient({ url: controller.url.replace('https:', 'http:'), token: TOKEN });
    await expect(plain.health()).rejects.toMatchObject({ hint: expect.stringContaining('https://') as string });
  });

  test('opens its files again at SIGHUP, and loses no line', async () => {
    const before = await lines(audit());
    await rename(audit(), `${audit()}.1`);
    controller.signal('SIGHUP');
    await until('it has', WAIT_MS, async () => controller.log.includes('opened the audit log again'));
    const { id } = await ask('GET', '/healthz', null);
    await until('the new file has the line', WAIT_MS, async () => (await readFile(audit(), 'utf8')).includes(id));
    const old = await lines(`${audit()}.1`);
    expect(old.slice(0, before.length)).toEqual(before);
    // A token that is taken away is gone with the next request.
    await writeFile(join(dir, 'tokens'), `${WRONG_TOKEN}\n`);
    expect((await ask('GET', '/version', TOKEN)).status).toBe(401);
    expect((await ask('GET', '/version', WRONG_TOKEN)).status).toBe(200);
  });
});

describe('a controller under a service manager', () => {
  let dir: string;
  let controller: TestController;

  beforeAll(async () => {
    dir = await mkdtemp('/tmp/fke-');
  });

  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
    if (dir) await rm(dir, { recursive: true });
  });

  test('says when it is ready, that it is well, what it has measured, and that it ends, once all is answered', async () => {
    const socket = join(dir, 'notify');
    const heard: Datagram[] = await receiveDatagrams(socket);
    const has = (word: string) => heard.filter(({ text }) => text.split('\n').some((line) => line.startsWith(word)));
    const env = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '1000000' };
    const audit = join(dir, 'ending.log');
    controller = await TestController.start({ env, args: ['--audit-log', audit], template: true });
    const { client, pid } = controller;
    await until('it says that it is ready', WAIT_MS, async () => has('READY=1').length === 1);

    const id = await forkOne(client);
    await client.exec(id, { args: ['true'] });
    await client.branch(id, { tag: 'later', mode: 'live' });
    await until('it says that it is well, with its sandbox', WAIT_MS, async () => {
      return has('WATCHDOG=1').some(({ text }) => text.includes('1 sandbox'));
    });
    expect(new Set(heard.map((one) => one.pid))).toEqual(new Set([pid]));
    // Nobody whom it starts may speak in its name.
    for (const child of [...(await controller.pids('vmm')), ...(await controller.pids('pager'))]) {
      expect(await readFile(`/proc/${child}/environ`, 'latin1')).not.toMatch(/NOTIFY_SOCKET|WATCHDOG/);
    }
    await expectMeasured(controller);

    const running = client.exec(id, { args: ['sh', '-c', 'touch /begun; sleep 3; echo finished'] });
    await until('the command runs', WAIT_MS, async () => {
      return (await client.exec(id, { args: ['test', '-e', '/begun'] })).exit_code === 0;
    });
    controller.signal('SIGTERM');
    await until('it says that it ends', WAIT_MS, async () => has('STOPPING=1').length === 1);
    controller.signal('SIGTERM');
    controller.signal('SIGINT');
    expect((await running).stdout).toBe('finished\n');
    expect(await controller.ended()).toBe(0);
    // The last requests are in the audit log too.
    const written = (await readFile(audit, 'utf8')).trim().split('\n');
    expect(JSON.parse(written.at(-1) ?? '')).toMatchObject({ path: `/v1/sandboxes/${id}/exec`, status: 200 });
    // The sandbox is nobody's child: it runs on, and the next controller has it.
    expect(await controller.pids('vmm')).toHaveLength(1);
    await controller.serve();
    expect((await client.exec(id, { args: ['test', '-e', '/begun'] })).exit_code).toBe(0);
    expect(has('WATCHDOG=1').length).toBeGreaterThan(1);
  });

  test('is not well while its pager does not answer', async () => {
    const socket = join(dir, 'notify-2');
    const heard = await receiveDatagrams(socket);
    const well = () => heard.filter(({ text }) => text.includes('WATCHDOG=1')).length;
    await controller.kill9();
    await controller.serve([], { env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '600000' } });
    await until('it is well', WAIT_MS, async () => well() > 2);
    const [pager] = await controller.pids('pager');
    if (pager === undefined) throw new Error('there is no pager');
    process.kill(pager, 'SIGSTOP');
    try {
      await until('it says so in its log', WAIT_MS, async () => controller.log.split('not healthy').length > 3);
      const before = well();
      const said = controller.log.split('not healthy').length;
      await until('it goes on saying so', WAIT_MS, async () => controller.log.split('not healthy').length > said + 1);
      expect(well()).toBe(before);
    } finally {
      process.kill(pager, 'SIGCONT');
    }
    const before = well();
    await until('it is well again', WAIT_MS, async () => well() > before);
  });
});

describe('a store of snapshots elsewhere', () => {
  test('holds the snapshots, and is one controller’s', async () => {
    const dir = await mkdtemp('/tmp/fke-');
    const root = join(dir, 'snapshots');
    const env = { FORKD_SNAPSHOT_ROOT: root };
    try {
      await using controller = await TestController.start({ env });
      expect((await readdir(root)).includes('oci-layout')).toBe(true);
      expect(await readdir(controller.dir)).not.toContain('store');
      await expect(TestController.start({ env, dir: join(dir, 'other') })).rejects.toThrow(
        /has the directory .*snapshots/,
      );
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});

/** After one fork, one command and one branch. */
async function expectMeasured(controller: TestController): Promise<void> {
  let text = '';
  const valueOf = (name: string, family = name): number | undefined =>
    parsePrometheus(text)
      .get(family)
      ?.samples.filter((sample) => sample.name === name)
      .reduce((sum, sample) => sum + sample.value, 0);
  await until('the pager has been asked', WAIT_MS, async () => {
    text = await overSocket(controller.socket, '/metrics');
    return (valueOf('forkd_sandbox_private_bytes') ?? 0) > 0;
  });
  for (const name of ['fork', 'fork_ready', 'exec', 'branch_pause', 'branch_capture']) {
    expect([name, valueOf(`forkd_${name}_seconds_count`, `forkd_${name}_seconds`)]).toEqual([name, 1]);
    expect(valueOf(`forkd_${name}_seconds_sum`, `forkd_${name}_seconds`)).toBeGreaterThan(0);
  }
  expect(valueOf('forkd_snapshots_total')).toBe(2);
  expect(valueOf('forkd_sandboxes_active')).toBe(1);
  expect(valueOf('forkd_layers')).toBeGreaterThan(0);
  expect(valueOf('forkd_layer_bytes')).toBeGreaterThan(1e6);
  expect(valueOf('forkd_sandbox_shared_bytes')).toBeGreaterThan(1e6);
  expect(valueOf('forkd_branches_in_flight')).toBe(0);
}

function overSocket(socketPath: string, url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ socketPath, path: url }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += chunk.toString()));
      response.on('end', () => resolve(text));
    }).on('error', reject);
  });
}
