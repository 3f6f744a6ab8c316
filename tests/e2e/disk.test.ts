/**
 * Proves on real guests: a branch of any mode holds the disk of the same instant as the memory, and its audit says so. A guest writes files, syncs them
 * and keeps in its memory what they must hold; each child reads its files from the disk and compares. Sources and children do
 * not see each other's writes.
 */

import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { DiskServer } from '@forkd/engine';
import { BUILT, codeOf, DISK_TEMPLATE, DiskWriter, forkOne, shell, type TestController } from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { expect } from 'vitest';

const test = base
  .override('controllerOptions', { template: false })
  .extend('disk', { scope: 'file' }, async ({ client }) => {
    // The template has a network, too: devices of both kinds in one VM.
    await client.createSnapshot({ tag: 'disk', ...DISK_TEMPLATE, network: {} });
    return 'disk';
  });

/** The modes of the branches of a guest that writes, most of them live. `FORKD_TEST_BRANCHES` raises their number. */
const MODES = Array.from(
  { length: Number(process.env['FORKD_TEST_BRANCHES'] ?? 5) },
  (_, index) => (['live', 'live', 'live', 'diff', 'full'] as const)[index % 5] ?? 'live',
);

/** The writer's files have at least so many blocks together. */
const FILE_BLOCKS = 6;

interface Entry {
  digest: string;
  mediaType: string;
  annotations: Record<string, string>;
}

/** The layers of a snapshot's disk, as its manifest names them. */
async function diskLayersOf({ dir }: TestController, tag: string): Promise<string[]> {
  const blob = async (digest: string) =>
    JSON.parse(await readFile(join(dir, 'store/blobs/sha256', digest.replace('sha256:', '')), 'utf8'));
  const index = JSON.parse(await readFile(join(dir, 'store/index.json'), 'utf8'));
  const entry = index.manifests.find(({ annotations }: Entry) => Object.values(annotations).includes(tag));
  const { layers } = await blob(entry.digest);
  return layers.flatMap(({ mediaType, digest }: Entry) => (mediaType.includes('disk.layer') ? [digest] : []));
}

/** Checks the file system of a snapshot's disk, once its journal has been replayed. */
async function checkFileSystem(controller: TestController, tag: string): Promise<void> {
  const { dir } = controller;
  const server = await DiskServer.ensure({ bin: BUILT.disk, runDir: join(dir, 'run'), storeDir: join(dir, 'store') });
  try {
    const image = join(dir, `${tag}.ext4`);
    await server.exportImage(await diskLayersOf(controller, tag), image);
    await promisify(execFile)('e2fsck', ['-E', 'journal_only', '-y', image]).catch(() => undefined);
    await promisify(execFile)('e2fsck', ['-f', '-n', image]);
  } finally {
    server.disconnect();
  }
}

test('a child finds on its disk what its memory remembers, whatever the mode of the branch', async ({
  client,
  controller,
  disk,
}) => {
  const source = await forkOne(client, disk);
  expect(await shell(client, source, 'df -k / | tail -n 1')).toMatch(/overlay +4[0-9]{6} /);
  const writer = await DiskWriter.start(client, source);
  for (const [index, mode] of MODES.entries()) {
    const tag = `${mode}-${index}`;
    const branch = await client.branch(source, { tag, mode, audit: true });
    expect(branch).toMatchObject({ differing_pages: 0, differing_blocks: 0 });
    expect(branch.audited_blocks).toBeGreaterThan(FILE_BLOCKS);
    await writer.goesOn();
    const child = await forkOne(client, tag);
    expect(await shell(client, child, 'ip -o link show eth0')).toMatch(/state UP|LOWER_UP/);
    expect(await new DiskWriter(client, child).result()).toBe('0 differ');
    await checkFileSystem(controller, tag);
    await client.deleteSandbox(child);
  }
  expect(await writer.result()).toBe('0 differ');
  await client.deleteSandbox(source);
});

test('neither a source nor its children see what the others write', async ({ client, disk }) => {
  const source = await forkOne(client, disk);
  await shell(client, source, 'echo source > /file; sync');
  await client.branch(source, { tag: 'seen', mode: 'live' });
  const [first, second] = [await forkOne(client, 'seen'), await forkOne(client, 'seen')];
  await shell(client, source, 'echo later > /file');
  await shell(client, first, 'echo first >> /file');
  const all = async () =>
    Promise.all(
      [source, first, second].map((id) => shell(client, id, 'sync; echo 3 > /proc/sys/vm/drop_caches; cat /file')),
    );
  expect(await all()).toEqual(['later', 'source\nfirst', 'source']);
  const { disk_own_bytes: own = 0, disk_shared_bytes: shared = 0 } = await client.sandboxStats(first);
  expect(own).toBeGreaterThan(0);
  expect(shared).toBeGreaterThan(own);
  for (const id of [source, first]) await client.deleteSandbox(id);
  // The child of a removed snapshot still has its disk, and its branches are whole.
  await client.deleteSnapshot('seen');
  await client.branch(second, { tag: 'rest', mode: 'live' });
  await client.deleteSandbox(second);
  await client.compactSnapshot('rest', 'flat');
  await client.deleteSnapshot('rest');
  const last = await forkOne(client, 'flat');
  expect(await shell(client, last, 'cat /file')).toBe('source');
  await client.deleteSandbox(last);
  expect(await codeOf(client.deleteSnapshot('flat'))).toBe('ok');
});
