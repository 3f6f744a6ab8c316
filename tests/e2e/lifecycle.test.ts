// Proves on real guests: a paused sandbox does nothing until it is resumed, also through a branch, a restarted pager and a
// killed controller; a time to live ends or pauses; names and labels find a sandbox again; a request with an idempotency
// key is carried out once; the events say what happened; the console can be followed; usage is counted.
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { isForkdError } from '@forkd/sdk';
import { forkOne, makeTemplate, shell, TestController, until } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';

/** Appends a line to a file ten times a second, for as long as the sandbox runs. */
const TICKS = 'while :; do echo x >> /ticks; sleep 0.1; done';

let controller: TestController;

beforeAll(async () => {
  controller = await TestController.start();
  await makeTemplate(controller.client);
});
afterAll(() => controller[Symbol.asyncDispose]());

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'ok',
    (error: unknown) => (isForkdError(error) ? error.code : String(error)),
  );
}

const ticksIn = async (id: string) => Number(await shell(controller.client, id, 'wc -l < /ticks'));

test('a paused sandbox stands still, through a branch, a new pager and a new controller', async () => {
  const { client } = controller;
  const id = await forkOne(client);
  await client.startCommand(id, { args: ['sh', '-c', TICKS] });
  await until('it ticks', 30_000, async () => (await ticksIn(id).catch(() => 0)) > 2);
  expect((await client.pauseSandbox(id)).state).toBe('paused');
  expect((await client.pauseSandbox(id)).state).toBe('paused');
  expect(await codeOf(client.exec(id, { args: ['true'] }))).toBe('sandbox_paused');
  const cpuSecs = async () => (await client.sandboxStats(id)).cpu_secs;
  const before = await cpuSecs();

  const branch = await client.branch(id, { tag: 'of-paused', mode: 'live' });
  expect(branch.status).toBe('ready');
  expect((await client.getSandbox(id)).state).toBe('paused');
  // More than once, since what a branch leaves of a VM that stands on must be as it found it.
  for (const mode of ['diff', 'live'] as const) {
    expect((await client.branch(id, { tag: `again-${mode}`, mode })).status).toBe('ready');
    await client.deleteSnapshot(`again-${mode}`);
  }
  const child = await forkOne(client, 'of-paused');
  await until('the child of the branch goes on', 30_000, async () => (await ticksIn(child)) > 5);

  await controller.killOnly('pager');
  await until('a pager is there again', 30_000, async () => (await codeOf(client.memory(id))) === 'ok');
  await controller.kill9();
  await controller.serve();
  expect((await client.getSandbox(id)).state).toBe('paused');
  // A guest that ran for all this time would have used some seconds of the processor.
  expect((await cpuSecs()) - before).toBeLessThan(0.5);

  expect((await client.resumeSandbox(id)).state).toBe('running');
  const ticks = await ticksIn(id);
  await until('it ticks again', 30_000, async () => (await ticksIn(id)) > ticks);
  await Promise.all([id, child].map((one) => client.deleteSandbox(one)));
  await client.deleteSnapshot('of-paused');
});

test('a time to live ends a sandbox or pauses it, and can be changed', async () => {
  const { client } = controller;
  const fork = async (more: object) => (await client.createSandboxes({ snapshot_tag: 'base', ...more }))[0]?.id ?? '';
  const [killed, paused, kept] = [
    await fork({ ttl_secs: 2 }),
    await fork({ ttl_secs: 2, on_expire: 'pause' }),
    await fork({ ttl_secs: 2 }),
  ];
  expect((await client.updateSandbox(kept, { ttl_secs: null })).expires_at_unix).toBeUndefined();
  await until('it is ended', 30_000, async () => (await codeOf(client.getSandbox(killed))) === 'not_found_sandbox');
  await until('it is paused for good', 30_000, async () => {
    const { state, expires_at_unix: expiresAt } = await client.getSandbox(paused);
    return state === 'paused' && expiresAt === undefined;
  });
  expect((await client.getSandbox(kept)).state).toBe('running');
  await Promise.all([paused, kept].map((one) => client.deleteSandbox(one)));
});

test('names and labels', async () => {
  const { client } = controller;
  const [one] = await client.createSandboxes({ snapshot_tag: 'base', name: 'web', labels: { team: 'a', tier: '1' } });
  const [two] = await client.createSandboxes({ snapshot_tag: 'base', labels: { team: 'b' } });
  expect((await client.getSandbox('web')).id).toBe(one?.id);
  expect(await shell(client, 'web', 'hostname')).toBe(one?.id);
  expect(await codeOf(client.createSandboxes({ snapshot_tag: 'base', name: 'web' }))).toBe('name_taken');
  expect(await codeOf(client.updateSandbox(two?.id ?? '', { name: 'web' }))).toBe('name_taken');
  expect(await codeOf(client.createSandboxes({ snapshot_tag: 'base', n: 2, name: 'db' }))).toBe('bad_request');
  const found = async (query: object) => (await client.listSandboxes({}, query)).map(({ id }) => id);
  expect(await found({ label: ['team=a', 'tier'] })).toEqual([one?.id]);
  expect(await found({ label: 'team' })).toEqual([one?.id, two?.id]);
  expect(await found({ name: 'nobody' })).toEqual([]);
  await client.updateSandbox('web', { name: null, labels: { team: 'b' } });
  expect(await codeOf(client.getSandbox('web'))).toBe('not_found_sandbox');
  expect(await found({ label: 'team=b' })).toEqual([one?.id, two?.id]);
  await Promise.all([one, two].map((info) => client.deleteSandbox(info?.id ?? '')));
});

/** A request with a key. */
async function post(key: string, body: object, route = '/v1/sandboxes') {
  const reply = await controller.fetch(route, {
    method: 'POST',
    headers: { 'idempotency-key': key, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  return { status: reply.status, body: (await reply.json()) as { code?: string } };
}

test('a request with a key is carried out once, also across a restart', async () => {
  const { client } = controller;
  const request = { snapshot_tag: 'base', n: 2 };
  const [first, second] = await Promise.all([post('k1', request), post('k1', request)]);
  expect(first.status).toBe(201);
  expect(second).toEqual(first);
  await controller.kill9();
  await controller.serve();
  expect(await post('k1', request)).toEqual(first);
  expect((await client.listSandboxes()).length).toBe(2);
  const other = await post('k1', { snapshot_tag: 'base', n: 3 });
  expect([other.status, other.body.code]).toEqual([409, 'idempotency_conflict']);
  // A failure is not kept: the same request may succeed later.
  expect((await post('k2', { snapshot_tag: 'nothing' })).status).toBe(404);
  expect((await post('k2', { snapshot_tag: 'base' })).status).toBe(201);
  for (const { id } of await client.listSandboxes()) await client.deleteSandbox(id);
});

test('a template whose builder was never answered, the controller having been killed, is built by who asks again', async () => {
  const request = { tag: 'asked-once', source: 'recipe:busybox', mem_mib: 128, boot_wait_secs: 60 };
  const build = () => post('k3', request, '/v1/snapshots');
  expect((await build()).status).toBe(201);
  await controller.kill9();
  // As it is on disk until the moment of the answer.
  const kept = path.join(controller.dir, 'replies', createHash('sha256').update('k3').digest('hex'));
  await writeFile(kept, JSON.stringify({ ...JSON.parse(await readFile(kept, 'utf8')), reply: null }));
  await controller.serve();
  expect(await codeOf(controller.client.getSnapshot('asked-once'))).toBe('not_found_snapshot');
  const built = await build();
  expect(built).toMatchObject({ status: 201, body: { tag: 'asked-once', status: 'ready' } });
  expect(await build()).toEqual(built);
  await controller.client.deleteSnapshot('asked-once');
});

test('events tell what happened, and a reader who was cut off takes up where it was', async () => {
  const { client } = controller;
  const stop = new AbortController();
  const seen: { id: string; type: string }[] = [];
  const follow = async (after?: string) => {
    for await (const event of client.events(after === undefined ? {} : { after }, { signal: stop.signal })) {
      seen.push(event);
    }
  };
  const reading = follow().catch(() => undefined);
  // The stream is open once something that is done now arrives.
  await until('the stream is open', 30_000, async () => {
    await client.deleteSandbox(await forkOne(client));
    return seen.length > 0;
  });
  const id = await forkOne(client);
  await client.pauseSandbox(id);
  await client.resumeSandbox(id);
  await client.branch(id, { tag: 'seen', mode: 'diff' });
  await client.deleteSandbox(id);
  await client.deleteSnapshot('seen');
  const types = () => seen.filter((event) => 'sandbox' in event || 'snapshot' in event).map(({ type }) => type);
  await until('the last event', 30_000, async () => types().at(-1) === 'snapshot.removed');
  expect(types().slice(types().lastIndexOf('sandbox.created'))).toEqual([
    'sandbox.created',
    'sandbox.paused',
    'sandbox.resumed',
    'snapshot.writing',
    'snapshot.ready',
    'snapshot.durable',
    'sandbox.ended',
    'snapshot.removed',
  ]);
  stop.abort();
  await reading;

  const [place] = seen.slice(-3);
  const [next] = seen.slice(-2);
  for await (const event of client.events({ after: place?.id ?? '' })) {
    expect(event).toEqual(next);
    break;
  }
  for await (const event of client.events({ after: 'another-7' })) {
    expect(event.type).toBe('events.gap');
    break;
  }
});

test('the console can be read and followed, and usage is counted', async () => {
  const { client } = controller;
  const id = await forkOne(client);
  const text = new TextDecoder();
  let log = '';
  for await (const chunk of client.sandboxLogs(id, { tail_bytes: 1_000_000 })) log += text.decode(chunk);
  const following = (async () => {
    for await (const chunk of client.sandboxLogs(id, { tail_bytes: 0, follow: true })) {
      log += text.decode(chunk);
      if (log.includes('said by a test')) return;
    }
    throw new Error('the stream ended');
  })();
  await until('the line arrives', 30_000, async () => {
    await shell(client, id, 'echo said by a test > /dev/console');
    return log.includes('said by a test');
  });
  await following;
  const stats = await client.sandboxStats(id);
  expect(stats.exec_count).toBeGreaterThan(0);
  for (const field of ['cpu_secs', 'rss_bytes', 'minor_faults', 'private_bytes', 'shared_bytes'] as const) {
    expect({ [field]: stats[field] }).toEqual({ [field]: expect.toSatisfy((value: number) => value > 0) });
  }
  await client.deleteSandbox(id);
});

test('old and surplus branches are pruned, and never one that others need', async () => {
  const { client } = controller;
  const id = await forkOne(client);
  for (const tag of ['b1', 'b2', 'b3']) await client.branch(id, { tag, mode: 'diff' });
  const child = await forkOne(client, 'b1');
  await client.branch(child, { tag: 'b1-child', mode: 'diff' });
  await Promise.all([id, child].map((one) => client.deleteSandbox(one)));
  const plan = await client.pruneSnapshots({ keep: 1, dry_run: true });
  const { removed, kept } = await client.pruneSnapshots({ keep: 1 });
  expect({ removed, kept }).toEqual(plan);
  const left = (await client.listSnapshots()).map(({ tag }) => tag);
  expect(left).toContain('base');
  // Of four branches of one template the newest stays, and what it came from.
  expect(removed.length + left.length).toBe(5);
  for (const tag of left.filter((one) => one !== 'base')) await forkOne(client, tag);
  expect(await codeOf(client.pruneSnapshots({}))).toBe('bad_request');
  for (const sandbox of await client.listSandboxes()) await client.deleteSandbox(sandbox.id);
});

test('a controller that was told to prunes by itself', async () => {
  const { client } = controller;
  const id = await forkOne(client);
  for (const tag of ['p1', 'p2', 'p3']) await client.branch(id, { tag, mode: 'diff' });
  await controller.stop();
  await controller.serve(['--prune-keep', '0']);
  await until('only the template is left', 30_000, async () => (await client.listSnapshots()).length === 1);
  expect((await client.listSnapshots()).map(({ tag }) => tag)).toEqual(['base']);
  await client.deleteSandbox(id);
  await controller.stop();
  await controller.serve();
});

test('a compacted snapshot has all that its chain had, and needs none of it', async () => {
  const { client } = controller;
  const id = await forkOne(client);
  await shell(client, id, 'echo first > /f');
  await client.branch(id, { tag: 'c1', mode: 'diff' });
  const child = await forkOne(client, 'c1');
  await shell(client, child, 'echo second >> /f');
  await client.branch(child, { tag: 'c2', mode: 'live' });
  expect(await codeOf(client.compactSnapshot('c2', 'c2'))).toBe('bad_request');
  expect(await codeOf(client.compactSnapshot('c2', 'c1'))).toBe('tag_exists');
  const flat = await client.compactSnapshot('c2', 'flat');
  expect(flat).toMatchObject({ tag: 'flat', status: 'ready', durable: true });
  expect(await client.getSnapshotDetail('flat')).toMatchObject({ chain_depth: 0, ancestors: [], dependents: [] });
  await Promise.all([id, child].map((one) => client.deleteSandbox(one)));
  await client.deleteSnapshot('c1', { cascade: true });
  const restored = await forkOne(client, 'flat');
  expect(await shell(client, restored, 'cat /f')).toBe('first\nsecond');
  await client.deleteSandbox(restored);
});
