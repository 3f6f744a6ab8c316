/**
 * Proves that a store which two data directories have in turn keeps what sandboxes run from, whoever collects garbage: the
 * controller of the first is killed, that of the second removes the snapshot, and the first's sandbox is as it was when its
 * controller is back. Once nothing of the first runs, the blobs go.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { forkOne, shell, TestController, until } from '@forkd/testing';
import { expect, test } from 'vitest';

const WAIT_MS = 30_000;

test(
  'a controller keeps the blobs that sandboxes of another data directory run from',
  { timeout: 300_000 },
  async () => {
    await using first = await TestController.start({ template: true });
    const store = join(first.dir, 'store');
    const blobs = () => readdir(join(store, 'blobs/sha256'));
    const id = await forkOne(first.client);
    await shell(first.client, id, 'echo kept > /tmp/file');
    const before = await blobs();
    await first.kill9();

    await using second = await TestController.start({ args: ['--snapshot-root', store] });
    await second.client.deleteSnapshot('base');
    await until('garbage was to be collected', WAIT_MS, async () => second.log.includes('nothing is removed from it'));
    await second.stop();
    expect(await blobs()).toEqual(expect.arrayContaining(before.filter((name) => name.length === 64)));

    await first.serve();
    expect(await shell(first.client, id, 'cat /tmp/file')).toBe('kept');
    const { tag } = await first.client.branch(id, { mode: 'live' });
    const child = await forkOne(first.client, tag);
    expect(await shell(first.client, child, 'cat /tmp/file')).toBe('kept');
    await Promise.all([id, child].map((one) => first.client.deleteSandbox(one)));
    await first.client.deleteSnapshot(tag);
    await until('the blobs are gone', WAIT_MS, async () => (await blobs()).length === 0);
  },
);
