/**
 * Proves on real guests what happens to stored snapshots: old and surplus branches are pruned, on request and by a controller that
 * was told to, and a compacted snapshot has all that its chain had.
 */

import { codeOf, forkOne, shell, until } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { expect } from 'vitest';

test('pruning removes old and surplus branches, and never one that others need', async ({ client }) => {
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
  // The newest of four branches of the template stays, and its ancestors.
  expect(removed.length + left.length).toBe(5);
  for (const tag of left.filter((one) => one !== 'base')) await forkOne(client, tag);
  expect(await codeOf(client.pruneSnapshots({}))).toBe('bad_request');
  for (const sandbox of await client.listSandboxes()) await client.deleteSandbox(sandbox.id);
});

test('a controller with --prune-keep prunes by itself', async ({ client, controller }) => {
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

test('a compacted snapshot has all the data of its chain, and needs none of the chain', async ({ client }) => {
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
