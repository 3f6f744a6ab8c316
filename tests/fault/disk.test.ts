/**
 * kill -9 of the disk server and of the controller while a guest writes to its disk, and a host without space: the guest stands
 * still, loses nothing that it was told is written, and goes on by itself.
 */

import { execFile } from 'node:child_process';
import { mkdtemp, open, rm, statfs, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ForkdClient } from '@forkd/sdk';
import { codeOf, DISK_TEMPLATE, DiskWriter, forkOne, shell, until } from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { expect } from 'vitest';

const run = promisify(execFile);
const WAIT_MS = 60_000;
/** Room for a template, what the writer writes, and a filler. */
const HOST_MIB = 400;

const test = base
  .extend('hostDisk', { scope: 'file' }, async ({}, { onCleanup }) => {
    const dir = await mkdtemp('/tmp/fk-disk-');
    await run('mount', ['-t', 'tmpfs', '-o', `size=${HOST_MIB}m`, 'tmpfs', dir]);
    onCleanup(async () => {
      await run('umount', [dir]);
      await rm(dir, { recursive: true });
    });
    return dir;
  })
  .override('controllerOptions', { scope: 'file' }, ({ hostDisk }) => ({
    dir: join(hostDisk, 'data'),
    template: false,
    args: ['--vmm-pool', '3'],
    knowsKernel: true,
  }))
  .extend('tag', { scope: 'file' }, async ({ client }) => {
    await client.createSnapshot({ tag: 'disk', ...DISK_TEMPLATE });
    return 'disk';
  });

/** Fills a file system but for `restBytes`, or whole if others write to it meanwhile. */
async function fill(dir: string, path: string, restBytes: number): Promise<void> {
  const file = await open(path, 'w');
  try {
    for (;;) {
      const { bavail, bsize } = await statfs(dir);
      const left = bavail * bsize - restBytes;
      if (left <= 0) return;
      await file.write(Buffer.alloc(Math.min(left, 2 ** 20)));
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
  } finally {
    await file.close();
  }
}

test('a guest goes on when its disk server is killed, and has all that it has written', async ({
  client,
  controller,
  tag,
}) => {
  const id = await forkOne(client, tag);
  const writer = await DiskWriter.start(client, id);
  for (let kill = 0; kill < 5; kill += 1) {
    await controller.killOnly('disks');
    await writer.goesOn();
  }
  await controller.kill9();
  await controller.killOnly('disks');
  await controller.serve();
  await writer.goesOn();
  await client.branch(id, { tag: 'after', mode: 'live' });
  const child = await forkOne(client, 'after');
  expect(await new DiskWriter(client, child).result()).toBe('0 differ');
  expect(await writer.result()).toBe('0 differ');
  for (const each of [id, child]) await client.deleteSandbox(each);
  await client.deleteSnapshot('after');
});

test('a branch whose disk server is killed fails or is whole', async ({ client, controller, tag }) => {
  const id = await forkOne(client, tag);
  const writer = await DiskWriter.start(client, id);
  for (const moment of [0, 10, 40]) {
    const branch = codeOf(client.branch(id, { tag: `at-${moment}`, mode: 'live' }));
    await new Promise((resolve) => setTimeout(resolve, moment));
    await controller.killOnly('disks');
    expect(['ok', 'disk_server_unavailable']).toContain(await branch);
    if ((await branch) === 'ok') {
      const child = await forkSoon(client, `at-${moment}`);
      expect(await new DiskWriter(client, child).result()).toBe('0 differ');
      await client.deleteSandbox(child);
    }
    await writer.goesOn();
  }
  expect(await writer.result()).toBe('0 differ');
  await client.deleteSandbox(id);
});

test('a guest stands still while the host has no space for its disk, and says so', async ({
  client,
  hostDisk,
  tag,
}) => {
  const id = await forkOne(client, tag);
  const writer = await DiskWriter.start(client, id);
  const events: string[] = [];
  const over = new AbortController();
  const listening = (async () => {
    for await (const { type } of client.events({ sandbox: id }, { signal: over.signal })) events.push(type);
  })().catch(() => undefined);
  const filler = join(hostDisk, 'filler');
  // The guest fills the rest.
  await fill(hostDisk, filler, 2 ** 20);
  const stalled = async () => (await client.getSandbox(id)).stalled;
  await until('the sandbox stands still', WAIT_MS, async () => (await stalled()) !== undefined);
  expect(await stalled()).toBe('The host has no space left for its disk.');
  expect(await codeOf(client.branch(id, { tag: 'full', mode: 'live' }))).toBe('disk_full');
  await truncate(filler, 0);
  await until('the sandbox goes on', WAIT_MS, async () => (await stalled()) === undefined);
  await writer.goesOn();
  expect(await writer.result()).toBe('0 differ');
  await until('both were reported', WAIT_MS, async () => events.includes('sandbox.recovered'));
  expect(events).toContain('sandbox.stalled');
  over.abort();
  await listening;
  await client.deleteSandbox(id);
  expect(await shell(client, await forkOne(client, tag), 'echo yes')).toBe('yes');
});

/** Whoever asks in the moment in which a disk server has ended and nobody has noticed is told so, and can ask again. */
async function forkSoon(client: ForkdClient, tag: string): Promise<string> {
  let id = '';
  await until(`a child of ${tag} runs`, WAIT_MS, async () => {
    id = await forkOne(client, tag).catch((error: unknown) => {
      expect(error).toMatchObject({ code: 'disk_server_unavailable' });
      return '';
    });
    return id !== '';
  });
  return id;
}
