/** A snapshot of a guest with a disk has its layers, and none of a guest without one has any: neither is written, nor read. */
import { readFile, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { type SnapshotConfig, Store } from '../src/index.ts';
import { configOf, draftOf, scratch } from './support.ts';

const withDisk: Partial<SnapshotConfig> = { machine: { ...configOf('any').machine, disk_gib: 4 } };

test('the layers of a disk are read as they were written, and go with the snapshot', async () => {
  const store = await Store.open(await scratch());
  const draft = await draftOf(store, 'whole', ['memory'], withDisk, ['base', 'written']);
  const { disk } = await store.writeSnapshot(draft);
  expect(disk).toEqual(draft.disk);
  expect((await store.readSnapshot('whole')).disk).toEqual(disk);
  await store.gc({ inUse: () => new Set() });
  for (const blob of disk) await store.check(blob);
  await store.remove('whole');
  await store.gc({ inUse: () => new Set() });
  for (const blob of disk) await expect(store.check(blob)).rejects.toMatchObject({ code: 'unknown_blob' });
});

test('memory without its disk is not written', async () => {
  const store = await Store.open(await scratch());
  await expect(store.writeSnapshot(await draftOf(store, 'half', ['memory'], withDisk))).rejects.toThrow(/disk/);
  await expect(store.writeSnapshot(await draftOf(store, 'half', ['memory'], {}, ['base']))).rejects.toThrow(/disk/);
  const absent = { digest: `sha256:${'1'.repeat(64)}` as const, size: 1 };
  const whole = await draftOf(store, 'half', ['memory'], withDisk, ['base']);
  const incomplete = { ...whole, disk: [...whole.disk, absent] };
  await expect(store.writeSnapshot(incomplete)).rejects.toMatchObject({ code: 'unknown_blob' });
  expect(await store.list()).toEqual([]);
});

test('a manifest without the layers of a disk is refused', async () => {
  const dir = await scratch();
  const store = await Store.open(dir);
  const whole = await store.writeSnapshot(await draftOf(store, 'whole', ['memory'], withDisk, ['base']));
  const manifest = JSON.parse(await readFile(store.blobPath(whole.manifest.digest), 'utf8'));
  manifest.layers.pop();
  const cut = await store.putBytes(Buffer.from(JSON.stringify(manifest)));
  const index = JSON.parse(await readFile(`${dir}/index.json`, 'utf8'));
  Object.assign(index.manifests[0], cut);
  await writeFile(`${dir}/index.json`, JSON.stringify(index));
  await expect((await Store.open(dir)).readSnapshot('whole')).rejects.toMatchObject({ code: 'corrupt_manifest' });
});
