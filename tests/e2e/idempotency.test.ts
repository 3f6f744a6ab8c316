/**
 * Proves on real guests that a request with an idempotency key is carried out once: across a restart of the controller, after a lost
 * reply, and when the controller is killed before it replies. A fork that no caller comes back for is undone.
 */
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, type TestController, until } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { expect } from 'vitest';

/** Sends a request with an idempotency key. */
async function post(controller: TestController, key: string, body: object, route = '/v1/sandboxes') {
  const reply = await controller.fetch(route, {
    method: 'POST',
    headers: { 'idempotency-key': key, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  return { status: reply.status, body: (await reply.json()) as { code?: string } };
}

test('a request with a key is carried out once, even across a restart', async ({ client, controller }) => {
  const request = { snapshot_tag: 'base', n: 2 };
  const [first, second] = await Promise.all([post(controller, 'k1', request), post(controller, 'k1', request)]);
  expect(first.status).toBe(201);
  expect(second).toEqual(first);
  await controller.kill9();
  await controller.serve();
  expect(await post(controller, 'k1', request)).toEqual(first);
  expect((await client.listSandboxes()).length).toBe(2);
  const other = await post(controller, 'k1', { snapshot_tag: 'base', n: 3 });
  expect([other.status, other.body.code]).toEqual([409, 'idempotency_conflict']);
  for (const { id } of await client.listSandboxes()) await client.deleteSandbox(id);
});

test('a request that failed may succeed later with the same key', async ({ client, controller }) => {
  expect((await post(controller, 'k2', { snapshot_tag: 'nothing' })).status).toBe(404);
  expect((await post(controller, 'k2', { snapshot_tag: 'base' })).status).toBe(201);
  for (const { id } of await client.listSandboxes()) await client.deleteSandbox(id);
});

test('a retry after a lost reply gets the outcome of the first request, which is still under way', async ({
  client,
  controller,
}) => {
  for (let round = 0; round < 3; round += 1) {
    const key = `lost-${round}`;
    const body = { snapshot_tag: 'base', n: 3 };
    const before = (await controller.sandboxDirs()).length;
    const lost = new AbortController();
    const first = controller.fetch('/v1/sandboxes', {
      method: 'POST',
      headers: { 'idempotency-key': key, 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: lost.signal,
    });
    await until('the fork is under way', 30_000, async () => (await controller.sandboxDirs()).length > before);
    lost.abort(new Error('lost'));
    await expect(first).rejects.toThrow('lost');
    const retry = await post(controller, key, body);
    expect(retry.status).toBe(201);
    const made = (retry.body as unknown as { id: string }[]).map(({ id }) => id);
    expect((await client.listSandboxes()).map(({ id }) => id).toSorted()).toEqual(made.toSorted());
    await Promise.all(made.map((id) => client.deleteSandbox(id)));
  }
});

test('a fork that no caller comes back for is undone', { timeout: 90_000 }, async ({ client, controller }) => {
  const lost = new AbortController();
  const first = controller.fetch('/v1/sandboxes', {
    method: 'POST',
    headers: { 'idempotency-key': 'left', 'content-type': 'application/json' },
    body: JSON.stringify({ snapshot_tag: 'base', n: 2 }),
    signal: lost.signal,
  });
  await until('the fork is under way', 30_000, async () => (await controller.sandboxDirs()).length > 0);
  lost.abort(new Error('left'));
  await expect(first).rejects.toThrow('left');
  await until('nothing is left', 60_000, async () => (await controller.sandboxDirs()).length === 0);
  expect(await client.listSandboxes()).toEqual([]);
});

test('a template whose controller was killed before its reply is built by the next request with the key', async ({
  client,
  controller,
}) => {
  const request = { tag: 'asked-once', source: 'recipe:busybox', mem_mib: 128, boot_wait_secs: 60 };
  const build = () => post(controller, 'k3', request, '/v1/snapshots');
  expect((await build()).status).toBe(201);
  await controller.kill9();
  // The file is like this until the controller replies.
  const kept = join(controller.dir, 'replies', createHash('sha256').update('k3').digest('hex'));
  await writeFile(kept, JSON.stringify({ ...JSON.parse(await readFile(kept, 'utf8')), reply: null }));
  await controller.serve();
  expect(await codeOf(client.getSnapshot('asked-once'))).toBe('not_found_snapshot');
  const built = await build();
  expect(built).toMatchObject({ status: 201, body: { tag: 'asked-once', status: 'ready' } });
  expect(await build()).toEqual(built);
  await client.deleteSnapshot('asked-once');
});
